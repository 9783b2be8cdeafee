"""Who asks (`principal.py`), by which credentials (`tokens.py`, `api_keys.py`), and what they may do (`access.py`)."""
