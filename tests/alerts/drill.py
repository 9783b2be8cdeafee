"""A stack with traffic, watched by a real Prometheus and Alertmanager whose rules run at a faster pace."""

import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx

from dev.observe import Observers
from dev.settings import free_ports
from ops.observe.dashboards import DASHBOARDS
from tests.alerts.faults import FAULTS, QUIET, Site
from tests.alerts.receiver import Receiver
from tests.chaos.disk import Disk
from tests.stack import Stack
from tests.waiting import eventually

FACTOR: Final = 60
"""An hour takes a minute."""
CALM_S: Final = 10.0
"""How long nothing must fire before a fault, and nothing else after its alert."""
ORDER_EVERY_S: Final = 0.2
KEYED: Final = 2
PLAIN: Final = 2
CUSTOMER: Final = "drilled"
PROOF_AGE_MAX_S: Final = 20
RATE_INTERVAL: Final = "10s"
OF_THE_MACHINE: Final = frozenset({"TandemAcceptSlow", "TandemSettleSlow"})
"""Alerts that are true when others take the processor. They are ignored where the drill is not alone on its machine."""

_SAMPLE: Final = re.compile(r"^(tandem_\w+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


class Verdict(NamedTuple):
    """What a fault raised: the seconds from the fault until each alert was sent."""

    fault: str
    expected: str
    after_s: dict[str, float]

    @property
    def is_exact(self) -> bool:
        return set(self.after_s) == {self.expected}


class Drill:
    def __init__(self, stack: Stack, directory: Path, *, alone: bool = True) -> None:
        """`stack` is running; the drill adds customers, a product and traffic. `alone` says whether nothing else works
        on this machine."""
        self.stack = stack
        self._ignored = frozenset() if alone else OF_THE_MACHINE
        receiver_port, *ports = free_ports(4)
        self.receiver = Receiver(receiver_port)
        self.observers = Observers(
            directory,
            ports,
            stack.variables,
            watch_options=("--watch", "1", "--patience", "5"),
            options=("--factor", str(FACTOR), "--webhook", self.receiver.url),
        )
        self._ending = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """With traffic, and with the watch."""
        stack = self.stack
        stack.product("sku-drill", pieces=10**7)
        stack.account(CUSTOMER, 10**9)
        stack.account(QUIET, 1_000)
        stack.await_orderable("sku-drill")
        threads = [threading.Thread(target=self._order, args=(keyed,)) for keyed in (True,) * KEYED + (False,) * PLAIN]
        with self.receiver:
            self.observers.watch.start()
            for thread in threads:
                thread.start()
            try:
                self.await_calm()
                yield
            finally:
                self._ending.set()
                for thread in threads:
                    thread.join()
                self.observers.stop()

    def _order(self, keyed: bool) -> None:
        body = {"customer_id": CUSTOMER, "product_id": "sku-drill", "quantity": 1}
        with httpx.Client(timeout=5) as client:
            while not self._ending.wait(ORDER_EVERY_S):
                headers = {"idempotency-key": str(uuid.uuid4())} if keyed else {}
                with suppress(httpx.HTTPError):
                    client.post(self.stack.url("order-api", "/orders"), json=body, headers=headers)

    def samples(self) -> dict[str, list[float]]:
        """What the watch says now, by metric; nothing while it is away."""
        try:
            text = httpx.get(f"http://{self.observers.watch.address}/metrics", timeout=5).text
        except httpx.HTTPError:
            return {}
        values: dict[str, list[float]] = {}
        for name, _, value in _SAMPLE.findall(text):
            values.setdefault(name, []).append(float(value))
        return values

    def await_calm(self) -> None:
        """Wait until everything works and is proved."""
        self.stack.await_ready()

        def is_calm() -> bool:
            now = self.samples()
            return (
                bool(now)
                and all(now["tandem_source_up"])
                and all(now.get("tandem_group_members", [0]))
                and not sum(now.get("tandem_parked_events", [1]) + now["tandem_group_stopped"])
                and now.get("tandem_verify_violations", [1]) == [0.0] * 6
                and max(now.get("tandem_reader_lag_seconds", [99])) < 1
                and now["tandem_verify_last_proof_age_seconds"][0] < PROOF_AGE_MAX_S
            )

        eventually(is_calm, "everything works and is proved", last_words=self.samples)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """With a Prometheus that knows nothing of what was before."""
        prometheus, alertmanager = self.observers.prometheus, self.observers.alertmanager
        for server in (prometheus, alertmanager):
            shutil.rmtree(server.directory, ignore_errors=True)
        self.receiver.clear()
        instances = [(instance.service, instance.admin_port) for instance in self.stack.instances.values()]
        prometheus.set_targets(instances)
        prometheus.start()
        alertmanager.start()
        try:
            wanted = len(instances) + 1
            eventually(lambda: self.query("count(up == 1)") == [float(wanted)], f"{wanted} targets are up")
            yield
        finally:
            prometheus.stop()
            alertmanager.stop()

    def query(self, expr: str) -> list[float]:
        """The values of an expression now. Raises `AssertionError` for a wrong one."""
        address = f"http://{self.observers.prometheus.address}/api/v1/query"
        answer: dict[str, Any] = httpx.get(address, params={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", answer
        return [float(series["value"][1]) for series in answer["data"]["result"]]

    def active(self) -> str:
        """What Prometheus says of its alerts, for a message."""
        return httpx.get(f"http://{self.observers.prometheus.address}/api/v1/alerts", timeout=10).text

    def fired(self, expected: str = "") -> dict[str, float]:
        """The alerts that were sent, without those that only say that the machine is busy."""
        ignored = self._ignored - {expected}
        return {name: at for name, at in self.receiver.fired().items() if name not in ignored}

    def soak(self, seconds: float) -> dict[str, float]:
        """The alerts that were sent although nothing was broken."""
        with self.watched():
            self._ending.wait(seconds)
            return self.fired()

    def play(self, fault: str, disk: Disk) -> Verdict:
        """Break it, and see which alerts are sent until `CALM_S` after the expected one."""
        act, expected = FAULTS[fault]
        with self.watched():
            self._ending.wait(CALM_S)
            assert not self.fired(), f"before {fault}: {self.fired()}; {self.active()}"
            began = time.monotonic()
            with act(Site(self.stack, self.observers.watch, disk)):
                eventually(lambda: expected in self.receiver.fired(), f"{expected} is sent", last_words=self.active)
                self._ending.wait(CALM_S)
                fired = self.fired(expected)
        self.await_calm()
        return Verdict(fault, expected, {name: at - began for name, at in fired.items()})

    def await_data(self) -> None:
        """Wait until every expression of the dashboards returns data: rates need two scrapes."""
        eventually(lambda: not self.without_data(), "the dashboards have data", last_words=self.without_data)

    def without_data(self) -> list[str]:
        """The expressions of the dashboards that return nothing now. Those about the Kafka exporter are left out: only
        Compose has it."""
        panels = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
        exprs = [query.expr for d, panel in panels if d.uid != "tandem-kafka" for query in panel.queries]
        return [expr for expr in exprs if not self.query(expr.replace("$__rate_interval", RATE_INTERVAL))]
