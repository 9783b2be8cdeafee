"""Parked events: a list of them, and what an operator does to them."""
