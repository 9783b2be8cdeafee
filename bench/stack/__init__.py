"""The private stack under measurement, and what it costs."""
