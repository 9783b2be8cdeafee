"""Processes as the operating system sees them: those that an earlier run left, and those that hold a port."""

import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil

from dev.servers.server import MARKER, works_in
from dev.settings import HOST

SERVICES_STOP_S = 12
SERVERS_STOP_S = 60


def of_stack(home: Path) -> list[psutil.Process]:
    """Every process of the stack that lives in `home`.

    Known by the marker in their environment; PostgreSQL's children overwrite theirs with their titles, and are known by
    the directory they work in.
    """
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in mine and _belongs(process, home)]


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARKER) == str(home) or works_in(process, home / "postgres")
    except (psutil.Error, OSError):
        return False


def stop(processes: Iterable[psutil.Process]) -> None:
    """Stops what an earlier run left, in the order of a normal stop: supervisor, services, then what they rely on."""
    remaining = list(processes)
    for kind, number, timeout_s in (
        ("supervisord", signal.SIGKILL, 5),
        ("service", signal.SIGTERM, SERVICES_STOP_S),
        ("java", signal.SIGTERM, SERVERS_STOP_S),
        ("postgres", signal.SIGINT, SERVERS_STOP_S),
        ("", signal.SIGKILL, 5),
    ):
        chosen = [process for process in remaining if kind in ("", _kind(process))]
        # Frozen ones first wake up. PostgreSQL's children end with their postmaster, and must not be interrupted alone.
        for process in chosen:
            _send(process, signal.SIGCONT)
            if kind != "postgres" or _kind(_parent(process)) != "postgres":
                _send(process, number)
        _, alive = psutil.wait_procs(chosen, timeout=timeout_s)
        remaining = [process for process in remaining if process not in chosen or process in alive]


def _parent(process: psutil.Process) -> psutil.Process | None:
    try:
        return process.parent()
    except psutil.NoSuchProcess:
        return None


def _kind(process: psutil.Process | None) -> str:
    try:
        if process is None:
            return "other"
        name = process.name()
        if name in ("java", "postgres"):
            return name
        return "supervisord" if "supervisor.supervisord" in process.cmdline() else "service"
    except psutil.NoSuchProcess:
        return "gone"


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def describe(process: psutil.Process) -> str:
    try:
        arguments = " ".join(" ".join(process.cmdline()).split())
        return f"{process.name()} (pid {process.pid}): {arguments[:77] + '…' if len(arguments) > 78 else arguments}"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"pid {process.pid}"


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do: what lingers from closed connections is no obstacle, a listener is.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def holder(port: int) -> str:
    """Who has a port that is taken, as far as this user may know."""
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections):
            return describe(process)
    return "a process of another user"
