"""Encryption in transit: the authority that signs certificates, and the contexts of servers and clients."""
