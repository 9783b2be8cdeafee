"""The console: what Tandem does, shown live, and an operator's acts, over HTTP on the loopback.

A process of its own that reads with the auditor's role, so that an order costs the same with it and without it.
"""
