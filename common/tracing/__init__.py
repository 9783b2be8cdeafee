"""Traces: which trace an order belongs to, what its spans are called, and how they are sent (off unless asked for)."""
