"""`python -m payment` runs the service; `python -m payment load-demo` opens the demo accounts and returns."""

from common import command, log
from common.consume.loop import BatchConsumer
from common.http import server
from common.http.app import application
from common.postgres import connect, pool
from payment import app, config, store
from payment.consumer import PaymentHandler


def serve() -> None:
    process = config.load()
    log.configure(process.service, process.instance, process.logs)
    consumer = BatchConsumer(process, PaymentHandler())
    accounts = pool(process.database_url, process.instance)
    ready = application(app.routes(accounts), consumer.missing)
    server.run(server.serve(ready, process, [consumer], open_=accounts.open, close=accounts.close))


def load_demo() -> None:
    process = config.load()
    with connect(process.database_url, "load-demo", statement_timeout_ms=0) as connection:
        opened = store.load_demo(connection)
    print(f"payment: {opened} demo accounts opened")


if __name__ == "__main__":
    command.run("payment", {"": serve, "load-demo": load_demo})
