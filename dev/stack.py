"""The commands of a stack, whichever way it runs: natively (`dev.native`) or in Docker Compose (`dev.compose`)."""

import dataclasses
import os
import shlex
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar
from urllib.request import getproxies, proxy_bypass

from dev.settings import HOST, SERVICES, Settings
from dev.state import State

DOWN = "Tandem is down; its data stays, and 'just up' brings it back"
REMEMBERED = "remembered; 'just up' starts that many"

TOKEN_TOOL = "people.token"  # noqa: S105 - the name of a module
CUSTOMER_TOKEN = ("customer", "cust-000001")
"""Of a customer of the demo data."""
CONSOLE_TOKEN = ("operator,merchant", "--ttl", "12h")
"""For the console: as a merchant too, or its form could place no order."""
LOAD_TOKEN = ("merchant", "load", "--ttl", "24h")
"""For Locust, whose users order in the name of many customers."""

NATIVE_ONLY = (
    "'just {}' is for the native stack; in Compose, a further service is a further entry of docker-compose.yml"
)


class StackError(Exception):
    """A command cannot do what it was asked to; the message says what to do instead."""


def caller() -> str:
    """The folder in which the user typed the command, from which the paths in it begin: just runs elsewhere."""
    return os.environ.get("TANDEM_CALLER") or os.getcwd()


class Stack(ABC):
    instances_max: ClassVar[int]
    """The limit for each service."""

    def __init__(self, settings: Settings) -> None:
        self.home = settings.home
        self.state = State.load(self.home)
        if settings.secure is None:
            settings = dataclasses.replace(settings, secure=self.state.secure)
        if settings.brokers is None:
            settings = dataclasses.replace(settings, brokers=self.state.brokers)
        if settings.standbys is None:
            settings = dataclasses.replace(settings, standbys=self.state.standbys)
        settings.check_ports()
        self.requested = settings
        """The settings of the environment, which apply when the stack starts."""
        self.settings = self.state.remembered(settings)

    @property
    def scheme(self) -> str:
        return "https" if self.settings.secure else "http"

    def print_addresses(self) -> None:
        base = f"{self.scheme}://{HOST}"
        for service in SERVICES:
            print(f"  {service.name:<10}  {base}:{self.settings.port(service):<5}  {service.serves}")
        print(f"  console     {base}:{self.settings.console_port:<5}  all of it, live: orders, proof, dead letters")
        print(f"  kafka       {self.settings.kafka_servers}")
        print("  databases   just psql order, just psql payment, just psql inventory")
        # curl would send it to the proxy of this shell.
        curl = "curl --noproxy '*' -i" if "http" in getproxies() and not proxy_bypass(HOST) else "curl -i"
        if self.settings.authority is not None:
            curl += f" --cacert {shlex.quote(str(self.settings.authority))}"
        credentials = ""
        if self.settings.told.get("AUTH") == "off":
            print("\nAUTH=off: whoever reaches these ports may do everything. Place an order:\n")
        else:
            print("\nOpen the console, as its operator for 12 hours:\n")
            print(f"  {base}:{self.settings.console_port}/#token={self.token(*CONSOLE_TOKEN)}")
            print("\nPlace an order. This token is for an hour; 'just token customer cust-000001' makes another:\n")
            print(f"  TOKEN={self.token(*CUSTOMER_TOKEN)}")
            credentials = ' -H "authorization: Bearer $TOKEN"'
        print(f"  {curl} {base}:{self.settings.order_api_port}/api/v1/orders{credentials} \\")
        body = '{"customer_id":"cust-000001","product_id":"sku-0001","quantity":2}'
        print(f"    -H 'content-type: application/json' -d '{body}'\n")

    def token(self, *arguments: str) -> str:
        """A token, with the arguments of `just token`. Raises `StackError`."""
        done = self.run_tool(TOKEN_TOOL, *arguments)
        if done.returncode:
            raise StackError(f"there is no token: {done.stderr.strip()}")
        return done.stdout.strip()

    @abstractmethod
    def run_tool(self, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a module of `ops` on the stack, and return what it printed."""

    @abstractmethod
    def up(self) -> None: ...

    @abstractmethod
    def down(self) -> None: ...

    @abstractmethod
    def reset(self) -> None: ...

    @abstractmethod
    def start(self, names: list[str]) -> None: ...

    @abstractmethod
    def stop(self, names: list[str]) -> None: ...

    def restart(self, names: list[str]) -> None:
        self.stop(names)
        self.start(names)

    @abstractmethod
    def upgrade(self) -> None:
        """Migrate, then replace every process by one of the code that is here now, one after the other."""

    def scale(self, counts: dict[str, int]) -> None:
        services = [service.name for service in SERVICES]
        for name, count in counts.items():
            if name not in services:
                raise StackError(f"{name!r} cannot be scaled; these services can: {', '.join(services)}")
            if not 1 <= count <= self.instances_max:
                limits = f"a service has 1 to {self.instances_max} instances"
                raise StackError(f"{name}={count}: {limits}; 'just stop {name}' stops all of them")
        self.state.scale |= counts
        self.state.save()
        self.apply_scale(counts)

    def make_certificate(self, user: str) -> None:
        """Make a certificate with which a client is this user at Kafka, instead of by a password. Raises
        `StackError`."""
        raise StackError("'just secrets certificate' is for the native stack; in Compose users have passwords")

    def send_signal(self, names: list[str], number: signal.Signals) -> None:
        """Kill, freeze or thaw services or instances. Raises `StackError`."""
        raise StackError(f"{', '.join(names)}: only the native stack can do that; in Compose use 'docker kill'")

    @abstractmethod
    def apply_scale(self, services: Collection[str]) -> None:
        """Run as many instances as the state says; those of these services are started, if they were stopped."""

    @abstractmethod
    def ps(self) -> None: ...

    @abstractmethod
    def logs(self, names: list[str], lines: int, follow: bool) -> None: ...

    def logs_of_order(self, order_id: str, names: list[str]) -> None:
        """Print the log lines that name an order. If there is none, end as `just trace` of the order."""
        if not self.print_lines_naming(order_id, names):
            print(f"no log line names it (at INFO, only what is unusual has one); 'just trace {order_id}' says:\n")
            sys.stdout.flush()
            self.ops("trace", [order_id])

    @abstractmethod
    def print_lines_naming(self, text: str, names: list[str]) -> bool:
        """Print the log lines of these services, or of all, that contain a text. Returns whether there are any."""

    @abstractmethod
    def psql(self, database: str, arguments: list[str]) -> None: ...

    @abstractmethod
    def ops(self, module: str, arguments: list[str]) -> None:
        """End as a module of `ops` with its arguments, and with its exit code."""

    def fail_over(self, database: str) -> None:
        """Let the standby of a database take over. Raises `StackError`."""
        raise StackError(NATIVE_ONLY.format("failover"))

    def rejoin(self, database: str) -> None:
        """Make the old primary of a database a standby. Raises `StackError`."""
        raise StackError(NATIVE_ONLY.format("rejoin"))

    def rotate_secrets(self) -> None:
        """Make new passwords and certificates while everything runs. Raises `StackError`."""
        raise StackError(NATIVE_ONLY.format("secrets rotate"))

    def migrate(self, targets: list[str]) -> None:
        """Make the databases of services beside the stack, each `database=package`; without any, those of the stack.
        Raises `StackError`."""
        raise StackError(NATIVE_ONLY.format("migrate"))

    def env(self, arguments: list[str]) -> None:
        """Become a command in the environment of the stack's processes, as env(1) does. Raises `StackError`."""
        raise StackError(NATIVE_ONLY.format("env"))

    @abstractmethod
    def locust(self, arguments: list[str]) -> None: ...

    @abstractmethod
    def observe(self, ports: list[int]) -> None:
        """Run Prometheus and Alertmanager beside it, on these ports."""
