"""`python -m inventory` runs the service; `python -m inventory load-demo` creates the demo products and returns."""

from collections.abc import Iterator
from itertools import product
from typing import Final

from common import command, log
from common.consume.consumer import BatchConsumer
from common.database import Database
from common.events import RESTOCKS
from common.http import server
from common.http.app import application
from common.kafka.outbox import Outbox
from common.postgres import connect
from inventory import app, config, store
from inventory.consumer import InventoryHandler
from inventory.operations import CONTRACT
from inventory.relay import Relay
from inventory.store import DemoProduct

DEMO_MATERIALS: Final = ("Oak", "Linen", "Steel", "Glass", "Copper", "Wool", "Leather", "Bamboo", "Marble", "Cork")
DEMO_THINGS: Final = ("tray", "lamp", "bowl", "basket", "clock", "bench", "frame", "vase", "stool", "hook")
DEMO_SIZES: Final = ("mini", "small", "low", "slim", "medium", "wide", "tall", "large", "grand", "giant")


def serve() -> None:
    process = config.load()
    log.configure(process.service, process.instance, process.logs)
    consumer, relay = BatchConsumer(process, InventoryHandler()), Relay(process)
    database = Database(process, "inventory")
    restocks = Outbox(process, database, RESTOCKS)

    products = application(
        CONTRACT.routes(app.endpoints(database, restocks, relay.wake)),
        lambda: [*consumer.missing(), *relay.missing()],
        degraded=consumer.degraded,
    )
    server.run(
        server.serve(
            products,
            process,
            [consumer, relay],
            open_=restocks.open,
            close=restocks.close,
            listen_when=database.undetermined,
        )
    )


def demo_products() -> Iterator[DemoProduct]:
    """A thousand products with different names, and one that is soon sold out."""
    for number, (material, thing, size) in enumerate(product(DEMO_MATERIALS, DEMO_THINGS, DEMO_SIZES)):
        # No two of the thousand have the same price; sku-0001 costs 1999.
        price = 100 + number * 1_899 % 9_900
        yield DemoProduct(f"sku-{number:04}", f"{material} {thing}, {size}", price, pieces=1_000_000)
    yield DemoProduct("sku-scarce", "Signed first edition", 1_500, pieces=10)


def load_demo() -> None:
    process = config.load()
    with connect(process.database_url, "load-demo", statement_timeout_ms=0) as connection:
        created = store.load_demo(connection, demo_products())
    print(f"inventory: {created} demo products created")


if __name__ == "__main__":
    command.run("inventory", {"": serve, "load-demo": load_demo})
