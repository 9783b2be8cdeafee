"""After a database was restored from a backup: what it had published comes back, and the log is read again."""
