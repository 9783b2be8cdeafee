"""Inventory: products, their stock, and what is reserved for and released by orders."""
