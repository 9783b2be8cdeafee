"""`python -m examples.notify` runs the service. On its ports are health and metrics."""

from common import command, log
from common.config.env import Env
from common.config.process import process_settings
from common.consume.consumer import BatchConsumer
from common.http import server
from common.http.app import application
from examples.notify.consumer import NotifyHandler


def serve() -> None:
    process = process_settings(Env("notify"), database="NOTIFY_DATABASE_URL", port=8090)
    log.configure(process.service, process.instance, process.logs)
    consumer = BatchConsumer(process, NotifyHandler())
    health = application([], consumer.missing, degraded=consumer.degraded)
    server.run(server.serve(health, process, [consumer]))


if __name__ == "__main__":
    command.run("notify", {"": serve})
