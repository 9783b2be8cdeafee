"""The order api: takes orders over HTTP and reports what becomes of them."""
