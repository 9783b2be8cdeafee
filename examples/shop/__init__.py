"""The order api as a shop uses it: from a shell, from Python and from TypeScript."""
