"""The load generator, and what drives it."""
