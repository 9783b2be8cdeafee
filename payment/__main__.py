"""`python -m payment` runs the service; `python -m payment load-demo` opens the demo accounts and returns."""

from common import command, log
from common.consume.consumer import BatchConsumer
from common.database import Database
from common.events import DEPOSITS
from common.http import server
from common.http.app import application
from common.kafka.outbox import Outbox
from common.postgres import connect
from payment import app, config, store
from payment.consumer import PaymentHandler
from payment.operations import CONTRACT


def serve() -> None:
    process = config.load()
    log.configure(process.service, process.instance, process.logs)
    consumer = BatchConsumer(process, PaymentHandler())
    database = Database(process, "payment")
    deposits = Outbox(process, database, DEPOSITS)

    accounts = application(
        CONTRACT.routes(app.endpoints(database, deposits)), consumer.missing, degraded=consumer.degraded
    )
    server.run(
        server.serve(
            accounts, process, [consumer], open_=deposits.open, close=deposits.close, listen_when=database.undetermined
        )
    )


def load_demo() -> None:
    process = config.load()
    with connect(process.database_url, "load-demo", statement_timeout_ms=0) as connection:
        opened = store.load_demo(connection)
    print(f"payment: {opened} demo accounts opened")


if __name__ == "__main__":
    command.run("payment", {"": serve, "load-demo": load_demo})
