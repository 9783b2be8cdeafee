"""Tokens and keys: who may ask the services, and how an operator lets them in."""
