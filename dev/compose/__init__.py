"""The stack in Docker Compose."""
