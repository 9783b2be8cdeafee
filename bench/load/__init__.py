"""The load generator and how it is driven."""
