"""What `up` ends with: every address, and an order that works."""

from dev.settings import HOST, SERVICES, Settings

SERVES = {
    "order-api": "orders",
    "order-saga": "health and metrics",
    "payment": "accounts, health and metrics",
    "inventory": "products, health and metrics",
}


def print_addresses(settings: Settings) -> None:
    for service in SERVICES:
        print(f"  {service.name:<10}  http://{HOST}:{settings.port(service):<5}  {SERVES[service.name]}")
    print(f"  {'kafka':<10}  {HOST}:{settings.kafka_port}")
    print(f"  {'databases':<10}  just psql order, just psql payment, just psql inventory")
    body = '{"customer_id":"cust-000001","product_id":"sku-0001","quantity":2}'
    print(f"\nOrder something:\n\n  curl -i http://{HOST}:{settings.order_api_port}/api/v1/orders \\")
    print(f"    -H 'content-type: application/json' -d '{body}'\n")
