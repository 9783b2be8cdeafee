"""`python -m examples.gateway` runs payment with cards, in payment's place; `… fake [PORT]` a gateway to try it with.

Its settings are payment's, CARD_GATEWAY_URL, and CARD_HOLD_S: how long an order waits for its card.
"""

import sys

from common import command, log
from common.config.env import Env
from common.consume.consumer import BatchConsumer
from common.database import Database
from common.events import DEPOSITS
from common.http import server
from common.http.app import application
from common.kafka.outbox import Outbox
from examples.gateway import fake
from examples.gateway.authorise import HOLD_S, Authoriser
from examples.gateway.consumer import CardHandler
from examples.gateway.settle import Settler
from payment import app, config
from payment.operations import CONTRACT


def serve() -> None:
    env = Env("payment")
    process = config.load(env)
    url = env.http_url("CARD_GATEWAY_URL", f"http://127.0.0.1:{fake.PORT}")
    log.configure(process.service, process.instance, process.logs)
    authoriser = Authoriser(url, env.integer("CARD_HOLD_S", HOLD_S, least=1, most=60, unit="s"))
    consumer, settler = BatchConsumer(process, CardHandler(authoriser)), Settler(process, url)
    database = Database(process, "payment")
    deposits = Outbox(process, database, DEPOSITS)

    def degraded() -> list[str]:
        return [*authoriser.degraded(), *settler.missing(), *consumer.degraded()]

    accounts = application(CONTRACT.routes(app.endpoints(database, deposits)), consumer.missing, degraded=degraded)
    server.run(
        server.serve(
            accounts, process, [authoriser, consumer, settler],
            open_=deposits.open, close=deposits.close, listen_when=database.undetermined,
        )
    )  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] == ["fake"]:
        fake.main(sys.argv[2:])
    else:
        command.run("examples.gateway", {"": serve})
