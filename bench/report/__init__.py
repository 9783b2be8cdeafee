"""A run's result, and how it is shown."""
