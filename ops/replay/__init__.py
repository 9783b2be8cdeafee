"""After a service's database was restored from a backup: what it had published comes back, then the log is taken in
again."""
