"""The commit-after-batch loop and what it rests on: positions, records, parking."""
