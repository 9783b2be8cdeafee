"""`python -m inventory` runs the service; `python -m inventory load-demo` creates the demo products and returns."""

import sys
from collections.abc import Iterator

from common import log
from common.consume.loop import BatchConsumer
from common.errors import Fatal
from common.http import server
from common.http.app import application
from common.postgres import connect, pool
from inventory import app, config, store
from inventory.consumer import InventoryHandler
from inventory.relay import Relay
from inventory.store import DemoProduct

DEMO_PRODUCTS = 1_000
DEMO_PIECES = 1_000_000
DEMO_SCARCE = DemoProduct("sku-scarce", "Signed first edition", unit_price=1_500, pieces=10)
DEMO_PRICE_MIN = 100
DEMO_PRICE_MAX = 9_999
DEMO_PRICE_STEP = 1_899  # no two of the thousand cost the same, and neighbours lie far apart: sku-0001 costs 1999
DEMO_MATERIALS = ("Oak", "Linen", "Steel", "Glass", "Copper", "Wool", "Leather", "Bamboo", "Marble", "Cork")
DEMO_THINGS = ("tray", "lamp", "bowl", "basket", "clock", "bench", "frame", "vase", "stool", "hook")
DEMO_SIZES = ("mini", "small", "low", "slim", "medium", "wide", "tall", "large", "grand", "giant")


async def serve() -> None:
    process = config.load()
    consumer = BatchConsumer(process, InventoryHandler())
    relay = Relay(process)
    products = pool(process.database_url, process.instance)
    await server.serve(
        application(app.routes(products), lambda: [*consumer.missing(), *relay.missing()]),
        process.http,
        [consumer, relay],
        open_=products.open,
        close=products.close,
    )


def demo_products() -> Iterator[DemoProduct]:
    """A thousand products, each with a name of its own, and one that is soon sold out."""
    prices = DEMO_PRICE_MAX - DEMO_PRICE_MIN + 1
    for number in range(DEMO_PRODUCTS):
        hundreds, tens, ones = number // 100, number // 10 % 10, number % 10
        yield DemoProduct(
            f"sku-{number:04}",
            f"{DEMO_MATERIALS[hundreds]} {DEMO_THINGS[tens]}, {DEMO_SIZES[ones]}",
            unit_price=DEMO_PRICE_MIN + number * DEMO_PRICE_STEP % prices,
            pieces=DEMO_PIECES,
        )
    yield DEMO_SCARCE


def load_demo() -> None:
    process = config.load()
    with connect(process.database_url, "load-demo", statement_timeout_ms=0) as connection:
        created = store.load_demo(connection, demo_products())
    print(f"inventory: {created} demo products created")


def main(arguments: list[str]) -> None:
    match arguments:
        case []:
            process = config.load()
            log.configure(process.service, process.instance)
            server.run(serve())
        case ["load-demo"]:
            load_demo()
        case _:
            raise Fatal(f"inventory: unknown arguments {arguments}; usage: python -m inventory [load-demo]")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fatal as error:
        sys.exit(str(error))
