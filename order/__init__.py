"""Orders: taken over HTTP by the api, decided by the saga."""
