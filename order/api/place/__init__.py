"""Placing orders: one at a time, many in one request, with or without an idempotency key."""
