"""A whole Tandem on ports and data of its own: real PostgreSQL, real Kafka, real processes, that a test can break."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import httpx
import psycopg

from dev.servers.instance import Instance as Child
from dev.servers.kafka import Broker
from dev.servers.postgres import Cluster
from dev.servers.server import tail
from dev.settings import DATABASES, HOST, ROOT, SERVICES, Service, environment, free_ports
from dev.settings import new_passwords as draw_passwords
from tests.proxy import Proxy

READY_S = 60.0
SETTLE_S = 90.0
API = "/api/v1"

T = TypeVar("T")

# Made once: a client of its own costs each question 50 ms of CPU, and readiness is asked for every 50 ms. Connections
# are not kept, since processes are killed and started again at the same port.
_asking: Final = httpx.Client(timeout=10, limits=httpx.Limits(max_keepalive_connections=0))


def eventually(found: Callable[[], T | None], what: str, within_s: float = READY_S, every_s: float = 0.05) -> T:
    """The first answer of `found` that is not None or False. Fails with `what` after `within_s` seconds."""
    until = time.monotonic() + within_s
    while True:
        answer = found()
        if answer is not None and answer is not False:
            return answer
        if time.monotonic() > until:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)


class Instance(Child):
    """One process of a service, and what can be asked of it."""

    def get(self, path: str) -> httpx.Response:
        return _asking.get(f"http://{HOST}:{self.admin_port}{path}")

    def listening(self) -> bool:
        try:
            return self.get("/livez").status_code == 200
        except httpx.HTTPError:
            return False


class Stack:
    """Infrastructure, instances, and what a client does with them."""

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.passwords = draw_passwords()
        self.postgres_port, kafka_port, controller_port = free_ports(3)
        self.postgres = Cluster(directory / "postgres", self.postgres_port, self.passwords["postgres"])
        self.kafka = Broker(directory / "kafka", kafka_port, controller_port)
        self.ports = dict(zip([s.name for s in SERVICES], free_ports(len(SERVICES)), strict=True))
        self.proxies: dict[str, Proxy] = {}
        self.variables = environment(
            kafka_port=kafka_port, postgres_port=self.postgres_port, passwords=self.passwords
        ) | dict(settings or {})
        self.instances: dict[str, Instance] = {}
        self.http = httpx.Client(timeout=15)

    def start_servers(self) -> None:
        """A PostgreSQL and a broker with nothing in them."""
        with ThreadPoolExecutor() as both:
            list(both.map(lambda server: server.start(), (self.postgres, self.kafka)))

    def start_infrastructure(self) -> None:
        self.start_servers()
        self.run_tool("ops.migrate")
        self.run_tool("ops.topics", "create")

    def put_proxies(self) -> None:
        """Lead each service to its database by a proxy of its own."""
        for database, port in zip(DATABASES, free_ports(len(DATABASES)), strict=True):
            self.proxies[database] = Proxy(port, self.postgres_port)
            variable = f"{database.upper()}_DATABASE_URL"
            self.variables[variable] = self.variables[variable].replace(f":{self.postgres_port}/", f":{port}/")

    def tool_environment(self) -> dict[str, str]:
        return {**os.environ, **self.variables}

    def tool(self, *arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a one-shot to its end."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=self.tool_environment(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def run_tool(self, *arguments: str) -> str:
        """Run a one-shot that has to succeed; returns what it printed."""
        done = self.tool(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def make(self, service: Service, number: int) -> Instance:
        return Instance(self.directory, service, number, self.ports[service.name], self.variables)

    def launch(self, name: str, number: int = 1, settings: Mapping[str, str] = MappingProxyType({})) -> Instance:
        """Start an instance of a service, with settings of its own, without waiting until it is ready."""
        instance = self.make(next(s for s in SERVICES if s.name == name), number)
        instance.variables.update(settings)
        self.instances[instance.name] = instance
        instance.launch()
        return instance

    def launch_all(self) -> None:
        """Start one of each, and wait until all are ready. The api waits for a product: there has to be one."""
        for service in SERVICES:
            self.launch(service.name)
        eventually(self["inventory-1"].listening, "inventory-1 listens")
        self.product("sku-first")
        self.await_ready()

    def __getitem__(self, instance: str) -> Instance:
        return self.instances[instance]

    def await_ready(self, *names: str, within_s: float = READY_S) -> None:
        for name in names or tuple(self.instances):
            instance = self.instances[name]
            eventually(lambda i=instance: i.unready() is None, f"{name} is ready", within_s)  # type: ignore[misc]

    def stop(self) -> None:
        for instance in self.instances.values():
            instance.kill()
        self.http.close()
        for proxy in self.proxies.values():
            proxy.cut()
        self.kafka.kill()
        self.postgres.kill()

    def logs(self) -> str:
        """The last lines of every process."""
        return "\n".join(f"{name}:\n{tail(i.log)}" for name, i in self.instances.items())

    # What a client does

    def url(self, service: str, path: str) -> str:
        return f"http://{HOST}:{self.ports[service]}{API}{path}"

    def product(self, product_id: str, *, price: int = 100, pieces: int = 0, active: bool = True) -> None:
        """Make a product, with pieces in stock. Waits for nothing: see `await_orderable`."""
        wanted = {"name": product_id, "unit_price": price, "currency": "EUR", "active": active}
        self.http.put(self.url("inventory", f"/products/{product_id}"), json=wanted).raise_for_status()
        if pieces:
            url = self.url("inventory", f"/products/{product_id}/restocks")
            self.http.post(url, json={"quantity": pieces}).raise_for_status()

    def account(self, customer_id: str, balance: int) -> None:
        url = self.url("payment", f"/accounts/{customer_id}/deposits")
        self.http.post(url, json={"amount": balance, "currency": "EUR"}).raise_for_status()

    def post(self, body: Mapping[str, Any]) -> httpx.Response:
        return self.http.post(self.url("order-api", "/orders"), json=body)

    def place(self, customer_id: str, *items: tuple[str, int]) -> str:
        """Order, and return the order's id. Fails unless it was accepted."""
        lines = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in items]
        answer = self.post({"customer_id": customer_id, "items": lines})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["order_id"])

    def await_orderable(self, product_id: str) -> str:
        """Wait until the api knows the product: an order for a customer without an account is then accepted. Returns
        that order's id."""
        body = {"customer_id": "cust-nobody", "product_id": product_id, "quantity": 1}

        def accepted() -> httpx.Response | None:
            answer = self.post(body)
            return answer if answer.status_code == 202 else None

        return str(eventually(accepted, f"{product_id} is orderable").json()["order_id"])

    def order(self, order_id: str) -> dict[str, Any]:
        answer = self.http.get(self.url("order-api", f"/orders/{order_id}"))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def await_settled(self, order_id: str, within_s: float = SETTLE_S) -> dict[str, Any]:
        def settled() -> dict[str, Any] | None:
            order = self.order(order_id)
            return order if order["settled"] else None

        return eventually(settled, f"order {order_id} is settled", within_s)

    def balance(self, customer_id: str) -> int:
        return int(self.http.get(self.url("payment", f"/accounts/{customer_id}")).json()["balance"])

    def on_hand(self, product_id: str) -> int:
        return int(self.http.get(self.url("inventory", f"/products/{product_id}")).json()["on_hand"])

    # What an auditor sees

    @contextmanager
    def audit(self, service: str) -> Iterator[psycopg.Connection[Any]]:
        with psycopg.connect(self.variables[f"{service.upper()}_AUDITOR_URL"]) as connection:
            yield connection

    def query(self, service: str, statement: str, parameters: Any = ()) -> list[Any]:
        with self.audit(service) as connection:
            return connection.execute(statement, parameters).fetchall()
