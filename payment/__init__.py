"""Payment: accounts, and what is captured from and refunded to them."""
