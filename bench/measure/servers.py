"""Servers to compare Tandem with: started, driven by the generator, and accounted for."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from bench.load import runner
from bench.load.runner import Records
from bench.load.spec import Spec
from bench.stack import processes
from dev.settings import HOST

START_S: Final = 20.0


@contextmanager
def running(
    modules: Mapping[str, Sequence[str]], ports: Iterable[int], environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, int]]:
    """Run modules with their arguments. Yields their pids by name as soon as something listens at all the ports."""
    servers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, arguments in modules.items():
            servers[name] = subprocess.Popen([sys.executable, "-m", *arguments], env=environment)
        for port in ports:
            _await_listening(port)
        yield {name: server.pid for name, server in servers.items()}
    finally:
        for server in servers.values():
            server.terminate()
        for server in servers.values():
            server.wait()


def _await_listening(port: int) -> None:
    """Raises `OSError` if nothing listens within `START_S`."""
    until = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def drive(spec: Spec, pids: Mapping[str, int]) -> tuple[Records, dict[str, float]]:
    """The records of a load, and the CPU microseconds a request of these processes and the generator."""
    before_s = {name: processes.tree_cpu_s(pid) for name, pid in pids.items()}
    records = runner.run(spec)
    seconds = {name: processes.tree_cpu_s(pid) - before_s[name] for name, pid in pids.items()}
    seconds["generator"] = records.result.cpu_s
    return records, {name: cpu_s / max(1, records.result.requests) * 1e6 for name, cpu_s in seconds.items()}
