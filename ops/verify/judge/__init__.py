"""Whether the six statements hold: order by order (1, 4, 5) and by what the databases add up to (2, 3, 6)."""
