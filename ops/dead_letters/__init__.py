"""`just dlq`: parked events, and what becomes of them."""
