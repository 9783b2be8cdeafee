"""Who did what to money, stock and parked events: a table of each database, and a log line."""
