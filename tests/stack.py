"""A whole Tandem on ports and data of its own: real PostgreSQL, real Kafka, real processes, that a test can break."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import httpx
import psycopg
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from common.config.env import Env
from common.config.kafka import Brokers, brokers
from common.kafka.access import ADMIN
from common.kafka.clients import client_config
from common.kafka.settings import Drift, mend
from common.tls.client import trusting
from dev.environment import child
from dev.logs import tail
from dev.servers import users
from dev.servers.instance import Instance as Child
from dev.servers.instance import authority_in
from dev.settings import DATABASES, HOST, ROOT, SERVICES, Service, environment, free_ports
from tests.proxy import Proxy
from tests.servers import Servers, start
from tests.waiting import eventually

API = "/api/v1"
STOP_S = 15.0
CLIENTS: Final = 6

T = TypeVar("T")

# Made once: a client costs 50 ms of CPU, and readiness is queried every 50 ms. Connections are not kept, since
# processes are killed and started again at the same port.
_http: Final = httpx.Client(timeout=10, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))


class Instance(Child):
    """One process of a service, and its answers to health checks."""

    def get(self, path: str) -> httpx.Response:
        return self._get(self.admin_port, path)

    def _get(self, port: object, path: str) -> httpx.Response:
        if (authority := authority_in(self.variables)) is None:
            return _http.get(f"http://{HOST}:{port}{path}")
        return httpx.get(f"https://{HOST}:{port}{path}", verify=trusting(authority), trust_env=False)

    def listening(self) -> bool:
        """Whether its public port is open; instances share that, so another's counts too."""
        try:
            return self._get(self.variables["HTTP_PORT"], "/livez").status_code == 200
        except httpx.HTTPError:
            return False

    def ended(self) -> str | None:
        """How it ended, if it has."""
        code = self.process.poll() if self.process is not None else None
        return None if code is None else f"{self.name} ended with {code}"

    def last_words(self) -> str:
        """What it says on /readyz, and the end of its log."""
        return f"{self.name} says on /readyz: {self.unready() or 'ready'}\n{tail(self.log)}"

    def await_answer(self, ask: Callable[[], T | None], condition: str) -> T:
        """Wait for something that this process does. Fails at once when it ends instead."""
        return eventually(ask, f"{self.name} {condition}", ended=self.ended, last_words=self.last_words)

    def await_ready(self) -> None:
        self.await_answer(lambda: self.unready() is None, "is ready")

    def await_unready(self, *words: str) -> str:
        """Wait until /readyz says all these words; returns what it says."""

        def missing_all() -> str | None:
            missing = self.unready() or ""
            return missing if all(word in missing for word in words) else None

        return self.await_answer(missing_all, f"says {words} on /readyz")


@contextmanager
def frozen(*instances: Instance) -> Iterator[None]:
    """Freeze them for a while. They thaw even if the test fails, or the tests after it would wait for them in vain."""
    for instance in instances:
        instance.pause()
    try:
        yield
    finally:
        for instance in instances:
            instance.resume()


def side_by_side(act: Callable[[T], object], items: Iterable[T]) -> None:
    """Act on all items, some at a time. Raises the first error."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(act, items))


class Stack:
    """Infrastructure, instances, and what a client does with them."""

    def __init__(
        self,
        directory: Path,
        settings: Mapping[str, str] | None = None,
        servers: Servers | None = None,
        owns_servers: bool = False,
    ) -> None:
        """`servers`, if given, are used, and left running unless it owns them; otherwise it has some of its own."""
        self.directory = directory
        self._owns_servers = owns_servers or servers is None
        servers = servers or Servers(directory)
        self.servers = servers
        self.secrets = servers.secrets
        self.secure = servers.authority is not None
        self.postgres, self.postgres_port, self.kafka = servers.postgres, servers.postgres_port, servers.kafka
        self.ports = dict(zip([s.name for s in SERVICES], free_ports(len(SERVICES)), strict=True))
        self.proxies: dict[str, Proxy] = {}
        self.variables = environment(
            kafka_servers=servers.kafka.brokers().servers,
            postgres_port=self.postgres_port,
            folder=self.secrets,
            authority=self.authority,
        ) | dict(settings or {})
        self.instances: dict[str, Instance] = {}
        self.http = httpx.Client(timeout=15, verify=True if self.authority is None else trusting(self.authority))
        self._auditors: dict[str, psycopg.Connection[Any]] = {}
        self._auditing = threading.RLock()

    def start_servers(self) -> None:
        """A PostgreSQL and a broker with nothing in them."""
        start(self.postgres, self.kafka, *self.servers.brokers[1:])

    def start_infrastructure(self) -> None:
        self.start_servers()
        self.run_tool("ops.migrate")
        self.run_tool("ops.topics", "create")

    def put_proxies(self) -> None:
        """Put a proxy between each service and its database."""
        for database, port in zip(DATABASES, free_ports(len(DATABASES)), strict=True):
            self.proxies[database] = Proxy(port, self.postgres_port)
            variable = f"{database.upper()}_DATABASE_URL"
            self.variables[variable] = self.variables[variable].replace(f":{self.postgres_port}/", f":{port}/")

    @property
    def brokers(self) -> Brokers:
        """How a test reaches the log."""
        return brokers(Env("test", self.variables_of(ADMIN)))

    def variables_of(self, user: str) -> dict[str, str]:
        """The variables of a process that is this user at the broker, where users are asked for."""
        return self.variables | self.kafka.identity(user)

    def tool_environment(self, user: str = ADMIN) -> dict[str, str]:
        return child(self.variables_of(user))

    def tool(self, *arguments: str, timeout_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a tool to its end."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=self.tool_environment(users.of_tool(arguments[0].removeprefix("ops."), arguments[1:])),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )

    def run_tool(self, *arguments: str) -> str:
        """Run a tool that has to succeed; returns what it printed."""
        done = self.tool(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def make(self, service: Service, number: int) -> Instance:
        certificate = self.servers.certificate(service.name)
        return Instance(
            self.directory,
            service,
            number,
            self.ports[service.name],
            self.variables_of(service.name),
            certificate=certificate,
        )

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
        inventory = self["inventory-1"]
        inventory.await_answer(inventory.listening, "listens")
        self.product("sku-first")
        self.await_ready()

    def __getitem__(self, instance: str) -> Instance:
        return self.instances[instance]

    def await_ready(self, *names: str) -> None:
        for name in names or tuple(self.instances):
            self.instances[name].await_ready()

    def stop(self) -> None:
        """End it. Processes whose servers go on may leave their consumer groups first."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda i: i.kill() if self._owns_servers else i.stop(STOP_S), self.instances.values()))
        self.http.close()
        for service in tuple(self._auditors):
            self.disconnect(service)
        for proxy in self.proxies.values():
            proxy.cut()
        if self._owns_servers:
            for server in (self.kafka, *self.servers.brokers[1:], self.postgres):
                server.kill()

    def logs(self) -> str:
        """How each process stands, and the last lines of its log."""
        standing = ((i.ended() or f"{i.name}: {i.unready() or 'ready'}", i.log) for i in self.instances.values())
        return "\n".join(f"{standing_of}\n{tail(log)}" for standing_of, log in standing)

    def threads(self) -> str:
        """What each thread of each process does just now, by py-spy."""
        running = [i.process.pid for i in self.instances.values() if i.process is not None and i.ended() is None]
        dumps = [["py-spy", "dump", "--nonblocking", "--pid", str(pid)] for pid in running]
        return "\n".join(subprocess.run(dump, capture_output=True, text=True, check=False).stdout for dump in dumps)

    def sessions(self) -> str:
        """What each session of PostgreSQL does just now."""
        query = """
            SELECT application_name, datname, state, wait_event_type, wait_event, now() - query_start, query
            FROM pg_stat_activity WHERE datname IS NOT NULL ORDER BY 1
        """
        try:
            with self.postgres.connect() as owner:
                return "\n".join(str(row) for row in owner.execute(query))
        except psycopg.Error as error:
            return str(error)

    @cached_property
    def admin(self) -> AdminClient:
        """A client of the brokers that may do everything."""
        return AdminClient(client_config(self.brokers, "test"))

    def set_topic(self, topic: str, setting: str, value: str) -> None:
        """Change a setting of a topic, and wait until the broker has it. The controller answers before that."""
        mend(self.admin, [Drift(topic, setting, "", value)])
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)

        def is_known() -> bool:
            [described] = self.admin.describe_configs([resource]).values()
            return bool(described.result()[setting].value == value)

        eventually(is_known, f"{setting} of topic {topic!r} is {value}")

    # What a client does

    def url(self, service: str, path: str) -> str:
        scheme = "http" if self.authority is None else "https"
        return f"{scheme}://{HOST}:{self.ports[service]}{API}{path}"

    @property
    def authority(self) -> Path | None:
        """By which the servers are verified; None when they serve in the clear."""
        return None if self.servers.authority is None else self.servers.authority.path

    def product(self, product_id: str, *, price: int = 100, pieces: int = 0, active: bool = True) -> None:
        """Make a product, with pieces in stock. Waits for nothing: see `await_orderable`."""
        attributes = {"name": product_id, "unit_price": price, "currency": "EUR", "active": active}
        url = self.url("inventory", f"/products/{product_id}")

        def put() -> bool:
            """A PUT may be repeated: until a new relay has begun, it is answered with 503."""
            answer = self.http.put(url, json=attributes)
            if answer.status_code != 503:
                answer.raise_for_status()
            return answer.status_code != 503

        eventually(put, f"{product_id} is stored and in the log")
        if pieces:
            url = self.url("inventory", f"/products/{product_id}/restocks")
            self.http.post(url, json={"quantity": pieces}).raise_for_status()

    def account(self, customer_id: str, balance: int) -> None:
        url = self.url("payment", f"/accounts/{customer_id}/deposits")
        self.http.post(url, json={"amount": balance, "currency": "EUR"}).raise_for_status()

    def accounts(self, customers: Iterable[str], balance: int) -> None:
        """Open an account for each of these customers."""
        side_by_side(lambda customer_id: self.account(customer_id, balance), customers)

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
        document: dict[str, Any] = answer.json()
        return document

    def await_settled(self, order_id: str) -> dict[str, Any]:
        def settled() -> dict[str, Any] | None:
            order = self.order(order_id)
            return order if order["settled"] else None

        return eventually(settled, f"order {order_id} is settled", last_words=lambda: f"it is {self.order(order_id)}")

    def balance(self, customer_id: str) -> int:
        return int(self.http.get(self.url("payment", f"/accounts/{customer_id}")).json()["balance"])

    def on_hand(self, product_id: str) -> int:
        return int(self.http.get(self.url("inventory", f"/products/{product_id}")).json()["on_hand"])

    # What an auditor sees

    def query(self, service: str, statement: str, parameters: Any = ()) -> list[Any]:
        """Query the service's database over a connection that is kept: a new one for each query costs 10 ms of CPU."""
        with self._auditing:
            try:
                return self._auditor(service).execute(statement, parameters).fetchall()
            except psycopg.OperationalError:  # the server was away, or the database dropped
                self.disconnect(service)
                return self._auditor(service).execute(statement, parameters).fetchall()

    def _auditor(self, service: str) -> psycopg.Connection[Any]:
        if service not in self._auditors:
            url = self.variables[f"{service.upper()}_AUDITOR_URL"]
            # Statements are not prepared: tests change tables.
            self._auditors[service] = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        return self._auditors[service]

    def disconnect(self, service: str) -> None:
        """Close the kept connection: a database can be dropped or copied only without sessions."""
        if connection := self._auditors.pop(service, None):
            connection.close()
