"""After a database was restored from a backup: what it had published comes back, the log is taken in again."""
