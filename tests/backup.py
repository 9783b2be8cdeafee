"""A service's database, backed up and restored as an operator would do it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from psycopg import sql

from tests.stack import Stack

INSTANCES: Final = {
    "payment": ("payment-1",),
    "inventory": ("inventory-1",),
    "order": ("order-saga-1", "order-api-1"),
}


@contextmanager
def stopped(shop: Stack, service: str) -> Iterator[None]:
    """Stop the processes that use the service's database, and start them again at the end."""
    for instance in INSTANCES[service]:
        shop[instance].stop()
    shop.disconnect(service)
    yield
    for instance in INSTANCES[service]:
        shop[instance].launch()


def back_up(shop: Stack, service: str) -> None:
    with stopped(shop, service), shop.postgres.connect() as owner:
        names = (sql.Identifier(f"{service}_backup"), sql.Identifier(service))
        owner.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))


def restore(shop: Stack, service: str) -> None:
    with stopped(shop, service):
        with shop.postgres.connect() as owner:
            names = (sql.Identifier(f"{service}_backup"), sql.Identifier(service))
            owner.execute(sql.SQL("DROP DATABASE {}").format(names[1]))
            owner.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(*names))
        shop.run_tool("ops.migrate")
