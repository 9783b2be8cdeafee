"""Who uses the console: log in with a token or an API key, and a session in a cookie after that."""
