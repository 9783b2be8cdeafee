"""What keeps the proof from being made."""


class Unproven(Exception):
    """Something cannot be proved. Says what, and why."""
