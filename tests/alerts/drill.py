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

from common.tls.client import trusting
from dev.observe import Observers
from dev.settings import HOST, free_ports
from ops.observe.dashboards import DASHBOARDS
from ops.observe.rules import rules
from tests.alerts.faults import FAULTS, QUIET, Site
from tests.alerts.machine import LATE_SHARE_MAX, Machine
from tests.alerts.panels import EXPORTED, Series, table
from tests.alerts.receiver import Receiver
from tests.chaos.disk import Disk
from tests.console import RunningConsole
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
PROOF_AGE_MAX_S: Final = 45
"""An audit comes half a minute after the last."""
RATE_INTERVAL: Final = "10s"
SOAK_RATE_INTERVAL: Final = "1m"
ATTEMPTS_MAX: Final = 4
OF_SPEED: Final = frozenset({"TandemAcceptSlow", "TandemSettleSlow"})
"""Alerts that are true too when the machine is slow. A fault during which other work took the processors is played
again."""
TARGETS: Final = 5
"""One instance of each service, and the console."""
CERTIFICATES: Final = "tandem_certificate_expiry_timestamp_seconds"
_SELECTOR: Final = re.compile(r"\b(?:tandem_\w+|up)\b(?:\{[^}]*\})?")
_FAILED: Final = re.compile(r',?status=~"[^"]*"')
"""Which orders were refused: none, as long as nothing is broken."""


class Verdict(NamedTuple):
    """What a fault raised: the seconds from the fault until each alert was sent, below zero for one sent before it."""

    fault: str
    expected: str
    after_s: dict[str, float]
    late_share: float
    """How often a thread had to wait for a processor."""

    @property
    def is_exact(self) -> bool:
        return set(self.after_s) == {self.expected} and self.after_s[self.expected] > 0

    @property
    def is_of_the_machine(self) -> bool:
        """Whether what is wrong is only that orders were slow on a machine that was too busy."""
        is_of_speed = set(self.after_s) - {self.expected} <= OF_SPEED
        return not self.is_exact and is_of_speed and self.late_share > LATE_SHARE_MAX

    @property
    def apart_from_speed(self) -> set[str]:
        """What was sent, without the alerts that a slow machine raises too."""
        return set(self.after_s) - OF_SPEED


class Drill:
    def __init__(self, stack: Stack, directory: Path) -> None:
        """`stack` is running; the drill adds a console, customers, a product and traffic."""
        self.stack = stack
        self.console = RunningConsole(stack)
        self._directory = directory
        receiver_port, *self._ports = free_ports(3)
        self.receiver = Receiver(receiver_port)
        self._machine = Machine()
        self._ending = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        """With traffic, and with the console."""
        stack = self.stack
        stack.product("sku-drill", pieces=10**7)
        stack.account(CUSTOMER, 10**9)
        stack.account(QUIET, 1_000)
        stack.await_orderable("sku-drill")
        threads = [threading.Thread(target=self._order, args=(keyed,)) for keyed in (True,) * KEYED + (False,) * PLAIN]
        with self.receiver, self._machine:
            self.console.start()
            for thread in threads:
                thread.start()
            try:
                self.await_calm()
                yield
            finally:
                self._ending.set()
                for thread in threads:
                    thread.join()
                self.console.stop()
                self.console.http.close()

    def _order(self, keyed: bool) -> None:
        body = {"customer_id": CUSTOMER, "product_id": "sku-drill", "quantity": 1}
        authority = self.stack.authority
        with httpx.Client(timeout=5, verify=True if authority is None else trusting(authority)) as client:
            while not self._ending.wait(ORDER_EVERY_S):
                headers = {"idempotency-key": str(uuid.uuid4())} if keyed else {}
                with suppress(httpx.HTTPError):
                    client.post(self.stack.url("order-api", "/orders"), json=body, headers=headers)

    def await_calm(self) -> None:
        """Wait until everything works and is proved."""
        self.stack.await_ready()

        def is_calm() -> bool:
            now = self.console.metrics()

            def values(name: str) -> list[float]:
                return [value for sample, value in now.items() if sample.partition("{")[0] == f"tandem_{name}"]

            return (
                len(values("source_up")) == 4
                and all(values("source_up"))
                and len(values("group_members")) == 3
                and all(values("group_members"))
                and not any(values("parked_events") + values("group_stopped") + values("reader_past_end_records"))
                and not any(values("partitions_lacking_copies") + values("database_standbys_missing"))
                and values("proof_violations") == [0.0] * 6
                and max(values("reader_lag_seconds"), default=99.0) < 1
                and max(values("proof_age_seconds")) < PROOF_AGE_MAX_S
            )

        eventually(is_calm, "everything works and is proved", last_words=self.console.metrics)

    @contextmanager
    def watched(self, factor: int = FACTOR) -> Iterator[None]:
        """With a Prometheus that knows nothing of what was before. All times of its rules are divided by `factor`."""
        options = ["--factor", str(factor), "--webhook", self.receiver.url]
        if self.stack.authority is not None:
            options += ["--authority", str(self.stack.authority)]
        console = f"{HOST}:{self.console.admin_port}"
        observers = Observers(self._directory, self._ports, self.console.targets, console, options)
        for server in observers.servers:
            shutil.rmtree(server.directory, ignore_errors=True)
        self.receiver.clear()
        self._prometheus = observers.prometheus.address
        try:
            observers.start()
            eventually(lambda: self.query("count(up == 1)") == [float(TARGETS)], f"{TARGETS} targets are up")
            yield
        finally:
            observers.stop()

    def query(self, expr: str) -> list[float]:
        """The values of an expression now. Raises `AssertionError` for a wrong one."""
        return [value for _, value in self.series(expr)]

    def series(self, expr: str) -> list[Series]:
        """The same, with the labels of each."""
        address = f"http://{self._prometheus}/api/v1/query"
        answer: dict[str, Any] = httpx.get(address, params={"query": expr}, timeout=10).json()
        assert answer["status"] == "success", answer
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def alerts(self) -> list[dict[str, Any]]:
        """What Prometheus says of its alerts, pending or firing."""
        answer = httpx.get(f"http://{self._prometheus}/api/v1/alerts", timeout=10).json()
        return list(answer["data"]["alerts"])

    def soak(self, seconds: float, panels: Path | None = None) -> set[str]:
        """The alerts that were sent, or were about to be, although nothing was broken: at the real pace, at which an
        alert may be pending for five minutes before it is sent. At its end, `panels` gets what the dashboards show."""
        with self.watched(factor=1):
            self._ending.wait(seconds)
            if panels is not None:
                panels.write_text(table(self.series, SOAK_RATE_INTERVAL))
            return set(self.receiver.fired()) | {alert["labels"]["alertname"] for alert in self.alerts()}

    def play(self, fault: str, disk: Disk) -> Verdict:
        """Break it, and see which alerts are sent until `CALM_S` after the expected one. If other work made orders slow
        meanwhile, that is done again."""
        verdict = self._attempt(fault, disk)
        for _ in range(ATTEMPTS_MAX - 1):
            if not verdict.is_of_the_machine:
                break
            verdict = self._attempt(fault, disk)
        return verdict

    def _attempt(self, fault: str, disk: Disk) -> Verdict:
        expected = FAULTS[fault].alert
        self.await_calm()  # the fault before this one was mended a moment ago
        with self.watched():
            self._ending.wait(CALM_S)
            before = set(self.receiver.fired()) - OF_SPEED
            assert not before, f"before {fault}: {before}; {self.alerts()}"
            began = time.monotonic()
            with FAULTS[fault].broken(Site(self.stack, self.console, disk)):
                eventually(lambda: expected in self.receiver.fired(), f"{expected} is sent", last_words=self.alerts)
                self._ending.wait(CALM_S)
                fired = self.receiver.fired()
                late_share = self._machine.late_share(began)
        return Verdict(fault, expected, {name: at - began for name, at in fired.items()}, late_share)

    def await_data(self) -> None:
        """Wait until every expression of the dashboards and every selector of the rules returns data: rates need two
        scrapes."""
        eventually(lambda: not self.without_data(), "all of them have data", last_words=self.without_data)

    def without_data(self) -> list[str]:
        """The expressions of the dashboards and the selectors of the rules that return nothing now. Those about the
        Kafka exporter are left out: only Compose has it. So are those about certificates, unless there are some."""
        panels = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
        exprs = [query.expr for d, panel in panels if d.uid != EXPORTED for query in panel.queries]
        rated = [expr.replace("$__rate_interval", RATE_INTERVAL) for expr in exprs]
        every_rule = [str(rule["expr"]) for group in rules()["groups"] for rule in group["rules"]]
        selectors = {_FAILED.sub("", selector) for expr in every_rule for selector in _SELECTOR.findall(expr)}
        if self.stack.authority is None:
            selectors -= {CERTIFICATES}
        return [expr for expr in (*rated, *sorted(selectors)) if not self.query(expr)]
