"""`just trace`: the whole story of any order, from the databases, the topics and the parked events."""
