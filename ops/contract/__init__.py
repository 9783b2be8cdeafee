"""Compares the published documents (docs/contract/) with those that the code makes."""
