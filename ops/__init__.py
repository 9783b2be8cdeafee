"""What an operator runs: migrations, topics."""
