"""A private Tandem to measure: its own ports and data, stopped when whoever started it goes away.

`python -m bench.stack.private DIRECTORY [--databases-only] [kafka.NAME=VALUE …] [postgres.NAME=VALUE …]` brings it up
from the checkout it is started in, prints where everything is as one line of JSON, then obeys a command a line (`start
NAME NUMBER`, `stop NAME NUMBER`), each answered by the same line anew. At the end of its input it stops what it
started: a bench that is killed leaves nothing running.
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from dev.servers.instance import Instance
from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster
from dev.servers.server import Server, tail
from dev.settings import ROOT, SERVICES, environment, free_ports, new_passwords

READY_S: Final = 90.0


class Layout(Struct, frozen=True, kw_only=True):
    """Where everything is. Processes by instance name (`payment-1`), `kafka` and `postgres`."""

    root: str
    directory: str
    variables: dict[str, str]
    ports: dict[str, int]
    admin_ports: dict[str, int]
    pids: dict[str, int]
    started_in_s: dict[str, float]


class NotReady(Exception):
    """A part of the stack did not come up."""


class Stack:
    """The infrastructure and the instances."""

    def __init__(self, directory: Path, options: Mapping[str, Mapping[str, str]]) -> None:
        """`options` are settings of `kafka` and `postgres`, other than Tandem's own."""
        self.directory = directory
        passwords = new_passwords()
        self.postgres_port, kafka_port, controller_port = free_ports(3)
        self.postgres = Cluster(
            directory / "postgres", self.postgres_port, passwords["postgres"], options.get("postgres")
        )
        self.kafka = Broker(directory / "kafka", kafka_port, controller_port, options.get("kafka"))
        self.ports = dict(zip([s.name for s in SERVICES], free_ports(len(SERVICES)), strict=True))
        self.variables = environment(kafka_port=kafka_port, postgres_port=self.postgres_port, passwords=passwords)
        self.instances: dict[str, Instance] = {}
        self.started_in_s: dict[str, float] = {}

    def start(self, *, databases_only: bool) -> None:
        """Everything, with the demo data in it."""
        servers: list[Server] = [self.postgres] if databases_only else [self.postgres, self.kafka]
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._timed, servers))
        self.run("ops.migrate")
        if not databases_only:
            self.run("ops.topics", "create")
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda service: self.run(service, "load-demo"), ("payment", "inventory")))
        if not databases_only:
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda service: self.launch(service.name, 1), SERVICES))

    def run(self, *arguments: str) -> None:
        """A one-shot to its end. Raises `NotReady` with what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise NotReady(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")

    def launch(self, name: str, number: int) -> None:
        """An instance, until it is ready."""
        service = next(s for s in SERVICES if s.name == name)
        instance = Instance(self.directory, service, number, self.ports[name], self.variables)
        self.instances[instance.name] = instance
        self._timed(instance)

    def stop_instance(self, name: str, number: int) -> None:
        self.instances.pop(f"{name}-{number}").stop()

    def _timed(self, server: Server) -> None:
        began = time.monotonic()
        server.start(READY_S)
        self.started_in_s[server.name] = round(time.monotonic() - began, 2)

    def layout(self) -> Layout:
        servers: list[Server] = [self.postgres, self.kafka, *self.instances.values()]
        return Layout(
            root=str(ROOT),
            directory=str(self.directory),
            variables=self.variables,
            ports={**self.ports, "postgres": self.postgres_port},
            admin_ports={name: instance.admin_port for name, instance in self.instances.items()},
            pids={s.name: s.process.pid for s in servers if s.process is not None and s.process.poll() is None},
            started_in_s=self.started_in_s,
        )

    def stop(self) -> None:
        """Everything, at once: nothing is kept."""
        for instance in self.instances.values():
            instance.kill()
        self.kafka.kill()
        self.postgres.kill()

    def logs(self) -> str:
        return "\n".join(f"{name}:\n{tail(instance.log)}" for name, instance in self.instances.items())


def main(directory: str, *options: str) -> None:
    # What is printed by anything that is called must not get between the lines of JSON.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    settings: dict[str, dict[str, str]] = {}
    for option in options:
        if "=" in option:
            name, value = option.split("=", 1)
            server, setting = name.split(".", 1)
            settings.setdefault(server, {})[setting] = value
    stack = Stack(Path(directory), settings)
    try:
        stack.start(databases_only="--databases-only" in options)
        answers.write(msgspec.json.encode(stack.layout()) + b"\n")
        for line in sys.stdin:
            match line.split():
                case ["start", name, number]:
                    stack.launch(name, int(number))
                case ["stop", name, number]:
                    stack.stop_instance(name, int(number))
                case unknown:
                    raise NotReady(f"no such command: {unknown}")
            answers.write(msgspec.json.encode(stack.layout()) + b"\n")
    except Exception:
        sys.stderr.write(stack.logs() + "\n")
        raise
    finally:
        stack.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
