"""The synchronous chain that Tandem replaces, and how fast it is."""
