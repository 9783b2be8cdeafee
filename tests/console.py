"""The console beside a test's stack: a real process, and a tab that listens to its stream."""

import json
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from common.tls.client import trusting
from dev.servers.console import Console
from dev.settings import CONSOLE, HOST, free_ports
from tests.stack import Stack
from tests.waiting import eventually

T = TypeVar("T")


class RunningConsole(Console):
    """The console of a stack. Break it is refused: no `just` started this stack."""

    def __init__(self, stack: Stack) -> None:
        self.port, admin_port = free_ports(2)
        self.targets = stack.directory / "targets.json"
        listed = [
            {
                "targets": [f"{HOST}:{i.admin_port}"],
                "labels": {"service": i.service.name, "database": i.service.database, "instance": i.name},
            }
            for i in stack.instances.values()
        ]
        self.targets.write_text(json.dumps(listed))
        addresses = (self.port, admin_port, stack.ports["order-api"])
        certificate = stack.servers.certificate("console")
        super().__init__(stack.directory, *addresses, self.targets, stack.variables_of(CONSOLE), certificate)
        self.trusted = True if stack.authority is None else trusting(stack.authority)
        # Whatever a test makes of the first: a drill must not find the stack of this checkout.
        self.variables |= {"CONSOLE_STACK": "other", "TANDEM_HOME": str(stack.directory / "no-stack")}
        self.http = httpx.Client(base_url=self.url, timeout=30, trust_env=False, verify=self.trusted)

    @property
    def url(self) -> str:
        scheme = "http" if self.trusted is True else "https"
        return f"{scheme}://{HOST}:{self.port}"

    def metrics(self) -> dict[str, float]:
        """Its metrics, such as `tandem_source_up{source="kafka"}`; nothing while it is away."""
        try:
            text = self.http.get("/metrics").text
        except httpx.HTTPError:
            return {}
        samples = (line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tandem_"))
        return {name: float(value) for name, value in samples}

    def get(self, path: str, **parameters: Any) -> Any:
        """The JSON of a page. Fails unless it is 200."""
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        return self.http.post(path, json=body, headers=headers)

    def await_job(self, job: dict[str, Any]) -> dict[str, Any]:
        """The job when it has ended, with its results."""

        def ended() -> dict[str, Any] | None:
            shown: dict[str, Any] = self.get(f"/api/jobs/{job['id']}")
            return shown if shown["state"] != "running" else None

        return eventually(ended, f"job {job['id']} ends")


class Listener:
    """A tab: keeps the newest message of each kind of the stream."""

    def __init__(self, console: RunningConsole) -> None:
        self.newest: dict[str, Any] = {}
        self.counts: dict[str, int] = defaultdict(int)
        self.ended = threading.Event()
        self._client = httpx.Client(timeout=30, trust_env=False, verify=console.trusted)
        self._url = f"{console.url}/api/stream"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        kind = ""
        try:
            with self._client.stream("GET", self._url) as answer:
                for line in answer.iter_lines():
                    if line.startswith("event: "):
                        kind = line.removeprefix("event: ")
                    elif line.startswith("data: "):
                        self.newest[kind] = json.loads(line.removeprefix("data: "))
                        self.counts[kind] += 1
        except (httpx.HTTPError, RuntimeError):
            pass  # it was closed
        finally:
            self.ended.set()

    def await_message(self, kind: str, fits: Callable[[Any], T | None], condition: str) -> T:
        """Wait for a message of this kind that `fits`."""
        return eventually(
            lambda: fits(self.newest[kind]) if kind in self.newest else None,
            condition,
            last_words=lambda: self.newest.get(kind),
        )

    def close(self) -> None:
        self._client.close()
