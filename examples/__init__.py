"""What others would write around Tandem, to be copied: clients, a service of one's own, a card gateway."""
