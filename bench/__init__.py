"""Tandem's bench suite: how fast, at what cost, and whether anything was lost. Start it with `just bench`."""
