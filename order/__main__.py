"""`python -m order api` takes orders over HTTP; `python -m order saga` decides them."""

from common import command, log
from common.consume.consumer import BatchConsumer
from common.http import server
from common.http.app import application
from order import config
from order.saga.consumer import SagaHandler
from order.saga.deadlines import DeadlineTimer


def run_api() -> None:
    from order.api import app  # here, not above: its metrics are none of the saga's

    settings = config.api()
    log.configure(settings.process.service, settings.process.instance, settings.process.logs)
    server.run(app.serve(settings))


def run_saga() -> None:
    settings = config.saga()
    process = settings.process
    log.configure(process.service, process.instance, process.logs)
    consumer = BatchConsumer(process, SagaHandler())
    timer = DeadlineTimer(process, settings.deadline_ms)
    ready = application([], consumer.missing, degraded=lambda: timer.missing() + consumer.degraded())
    server.run(server.serve(ready, process, [consumer, timer]))


if __name__ == "__main__":
    command.run("order", {"api": run_api, "saga": run_saga})
