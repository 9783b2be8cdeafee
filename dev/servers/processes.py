"""Processes as the operating system sees them: those that an earlier run left, and those that listen on a port."""

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from dev.servers.server import MARKER, works_in
from dev.settings import HOST

SERVICES_STOP_S = 12
SERVERS_STOP_S = 60


def of_stack(home: Path) -> list[psutil.Process]:
    """Every process of the stack in `home`, but this one and its parents.

    They are known by the marker in their environment. PostgreSQL's children overwrite theirs with a title, and are
    known by the directory in which they work.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _belongs(process, home)]


def _belongs(process: psutil.Process, home: Path) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return process.environ().get(MARKER) == str(home) or works_in(process, home / "postgres")
    except (psutil.Error, OSError):
        return False


def stop(left: Sequence[psutil.Process]) -> None:
    """Stop what an earlier run left, in the order of a normal stop: supervisord, services, Kafka, PostgreSQL."""
    for kind, number, timeout_s in (
        ("supervisord", signal.SIGKILL, 5),
        ("service", signal.SIGTERM, SERVICES_STOP_S),
        ("java", signal.SIGTERM, SERVERS_STOP_S),
        ("postgres", signal.SIGINT, SERVERS_STOP_S),
        ("", signal.SIGKILL, 5),
    ):
        chosen = [process for process in left if process.is_running() and kind in ("", _kind(process))]
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)  # a frozen process cannot end
                # PostgreSQL's children end with their postmaster: alone, they must not be interrupted.
                if kind != "postgres" or process.parent() not in chosen:
                    process.send_signal(number)
        psutil.wait_procs(chosen, timeout=timeout_s)


def _kind(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        if process.name() in ("java", "postgres"):
            return process.name()
        return "supervisord" if "supervisor.supervisord" in process.cmdline() else "service"
    return "gone"


def describe(process: psutil.Process) -> str:
    try:
        arguments = " ".join(" ".join(process.cmdline()).split())
        return f"{process.name()} (pid {process.pid}): {arguments[:77] + '…' if len(arguments) > 78 else arguments}"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"pid {process.pid}"


def listener(port: int) -> str | None:
    """What listens on a port, as far as this user may know; None when the port is free."""
    with socket.socket() as probe:
        # The servers do the same: closed connections that linger do not matter, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            return "the system, which gives low ports to root only"
        except OSError:
            pass
        else:
            return None
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections):
            return describe(process)
    return "a process of another user"
