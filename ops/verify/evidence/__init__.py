"""What is known of each order: its lines, kept on disk in buckets, and how far each reader has come."""
