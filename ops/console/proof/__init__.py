"""The six statements as a standing panel."""
