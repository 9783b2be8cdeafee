"""The proof of `ops.verify`, as tests run it, and its result."""

import subprocess
import sys
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry

from dev.settings import ROOT
from ops.console.proof.rounds import StandingProof
from ops.databases import databases
from ops.log import Log
from ops.observe.gauges import ProofGauges
from ops.verify import proof, waiting
from tests.stack import Stack

PATIENCE_S: Final = "3"
DEADLINE_S: Final = 3_600
"""The deadline by which the proof judges, whatever the services are configured with."""


class Proof:
    """The result of a proof: its exit code and the report as JSON."""

    def __init__(self, exit_code: int, report: bytes, stderr: str = "") -> None:
        self.exit_code = exit_code
        self.report: dict[str, Any] = orjson.loads(report)
        self.stderr = stderr

    @classmethod
    def run(cls, stack: Stack, *arguments: str) -> "Proof":
        """By `python -m ops.verify --json`."""
        done = subprocess.run(
            [sys.executable, "-m", "ops.verify", "--json", "--patience", PATIENCE_S, *arguments],
            cwd=ROOT,
            env={**stack.tool_environment(), "ORDER_SETTLE_DEADLINE_S": str(DEADLINE_S)},
            capture_output=True,
            timeout=300,
        )
        assert done.stdout, done.stderr
        return cls(done.returncode, done.stdout, done.stderr.decode())

    @classmethod
    def here(cls, stack: Stack) -> "Proof":
        """In this process, which takes seconds less: for tests with many proofs."""
        urls = {name: stack.variables[f"{name.upper()}_AUDITOR_URL"] for name in ("order", "payment", "inventory")}
        settings = waiting.Settings(stack.brokers, urls, deadline_s=DEADLINE_S, patience_s=float(PATIENCE_S))
        report = proof.prove(settings)
        return cls(report.exit_code, report.as_json())

    def named(self, statement: int) -> str:
        """The report about the offenders of a statement, as JSON."""
        return orjson.dumps([o for o in self.report["offenders"] if o["statement"] == statement]).decode()

    def checked(self, statement: int) -> int:
        return int(self.report["statements"][statement - 1]["checked"])

    def summary(self) -> str:
        return orjson.dumps(self.report, option=orjson.OPT_INDENT_2).decode()[:6_000]


class LightProof:
    """The console's standing proof, round by round, in this process."""

    def __init__(self, stack: Stack) -> None:
        brokers = stack.brokers
        urls = {name: stack.variables[f"{name.upper()}_AUDITOR_URL"] for name in ("order", "payment", "inventory")}
        self._published: list[dict[str, Any]] = []
        self._databases = databases(urls, "test")
        gauges = ProofGauges(CollectorRegistry())
        self._proof = StandingProof(brokers, self._databases, urls, DEADLINE_S, self._published.append, gauges)
        self._consumer = Log(brokers, "test").consumer()

    def rounds(self, count: int = 2) -> dict[str, Any]:
        """What is shown after so many rounds, each with an audit."""
        for _ in range(count):
            self._proof.round(self._consumer, audit=True)
        return self._published[-1]

    def close(self) -> None:
        self._consumer.close()
        for database in self._databases.values():
            database.close()
