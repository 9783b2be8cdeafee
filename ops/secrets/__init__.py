"""The secrets of the databases and the certificates: made for the containers of Compose, and made anew for all."""
