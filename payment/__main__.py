"""`python -m payment` runs the service; `python -m payment load-demo` opens the demo accounts and returns."""

import sys

from common import log
from common.consume.loop import BatchConsumer
from common.errors import Fatal
from common.http import server
from common.http.app import application
from common.postgres import connect, pool
from payment import app, config, store
from payment.consumer import PaymentHandler

DEMO_CUSTOMERS = 100_000
DEMO_BALANCE = 1_000_000
DEMO_POOR_BALANCE = 100


async def serve() -> None:
    process = config.load()
    consumer = BatchConsumer(process, PaymentHandler())
    accounts = pool(process.database_url, process.instance)
    await server.serve(
        application(app.routes(accounts), consumer.missing),
        process.http,
        [consumer],
        open_=accounts.open,
        close=accounts.close,
    )


def load_demo() -> None:
    process = config.load()
    with connect(process.database_url, "load-demo", statement_timeout_ms=0) as connection:
        opened = store.load_demo(
            connection, customers=DEMO_CUSTOMERS, balance=DEMO_BALANCE, poor_balance=DEMO_POOR_BALANCE
        )
    print(f"payment: {opened} demo accounts opened")


def main(arguments: list[str]) -> None:
    match arguments:
        case []:
            process = config.load()
            log.configure(process.service, process.instance)
            server.run(serve())
        case ["load-demo"]:
            load_demo()
        case _:
            raise Fatal(f"payment: unknown arguments {arguments}; usage: python -m payment [load-demo]")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Fatal as error:
        sys.exit(str(error))
