"""The warm-up of a broker that has just started, as a process of the native stack. See `common.kafka.warmth`."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil
from confluent_kafka import KafkaException

from common.config.env import Env
from common.config.kafka import Brokers, brokers
from common.errors import Fatal, Transient
from common.kafka.warmth import NAME, warm_up_until_orders_come
from dev.environment import child
from dev.servers.processes import listening
from dev.servers.server import Server

LEAST_PRIORITY: Final = 19


class Warmer(Server):
    """The warm-up as a process of the native stack. It ends by itself."""

    name = NAME

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        """`directory` is the stack's home; `variables` say where the broker is."""
        super().__init__(directory / NAME)
        self.variables = variables

    def prepare(self) -> None:
        """It keeps nothing on disk."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "dev.servers.warmth"]

    def environment(self) -> dict[str, str]:
        return child(self.variables)

    def unready(self) -> str | None:
        """Nothing waits for it."""
        return None


def broker_process(port: int) -> psutil.Process:
    """The process that listens on a port of this machine. Raises `LookupError`."""
    if process := next(listening(port), None):
        return process
    raise LookupError(f"no process of this user listens on port {port}")


def main(brokers: Brokers) -> None:
    os.nice(LEAST_PRIORITY)
    processes = [broker_process(int(server.rpartition(":")[2])) for server in brokers.servers.split(",")]

    def cpu_s() -> float:
        times = [process.cpu_times() for process in processes]
        return sum(of_one.user + of_one.system for of_one in times)

    print(warm_up_until_orders_come(brokers, cpu_s), flush=True)


if __name__ == "__main__":
    try:
        main(brokers(Env("warm-up")))
    except (KafkaException, Transient, Fatal, LookupError, psutil.Error) as error:
        print(f"the broker was not warmed: {error}", flush=True)
