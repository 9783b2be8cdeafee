"""Reading orders: by id, by customer, and waiting for their outcome."""
