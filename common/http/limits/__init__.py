"""How many requests a client may send: token buckets for principals and addresses, and the 429 that they answer."""
