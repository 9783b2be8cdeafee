"""The log of an installation that was upgraded from version to version, and the tests that today's code can read it."""
