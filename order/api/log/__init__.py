"""The log as the api uses it: appending orders, the catalogue, and admission control."""
