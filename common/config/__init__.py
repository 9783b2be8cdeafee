"""Settings come from environment variables and nowhere else. Each is read once, at start, and checked.

A wrong value stops the process with a message that names the variable, the value and what is allowed.
"""
