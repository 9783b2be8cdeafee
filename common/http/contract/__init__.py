"""What a service offers over HTTP, declared once: its routes, its OpenAPI document and its pages are made from that."""
