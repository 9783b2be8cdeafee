"""The order api: takes orders over HTTP and tells what becomes of them."""
