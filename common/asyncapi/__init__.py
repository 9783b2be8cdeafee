"""The AsyncAPI document: what is in the topics, for those who read or write them."""
