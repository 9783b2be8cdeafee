"""Secrets in files, each readable by its owner only: never in arguments, the environment or a log."""
