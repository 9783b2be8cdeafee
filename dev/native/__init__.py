"""The native stack: all processes, kept up by supervisord."""
