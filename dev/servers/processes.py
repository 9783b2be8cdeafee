"""Processes as the operating system sees them: those that the stack started, and those that listen on a port.

A process is known by its pid together with the time of its start: the pid alone may be another process's by now, and
its name or its folder say nothing about who started it.
"""

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from common.terminal import printable, shortened
from dev.servers.server import works_in
from dev.settings import HOST

RECORDS = "run"
"""The folder of the home that has a record of each process that was started."""
SERVICES_STOP_S = 12
SERVERS_STOP_S = 60


def record(home: Path, name: str, pid: int) -> None:
    """Remember a process of the stack."""
    (home / RECORDS).mkdir(parents=True, exist_ok=True)
    (home / RECORDS / name).write_text(f"{pid} {_start(pid)}\n")


def _start(pid: int) -> str:
    """When a process started: the boot of the machine, and clock ticks since then, which no clock can change."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The name, in brackets, may have brackets and spaces itself. The time is field 22.
        return f"{boot} {Path(f'/proc/{pid}/stat').read_text(errors='replace').rpartition(')')[2].split()[19]}"
    return ""


def _recorded(home: Path) -> Iterator[psutil.Process]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for path in sorted((home / RECORDS).iterdir()):
            pid, _, start = path.read_text(errors="replace").strip().partition(" ")
            if pid.isascii() and pid.isdecimal() and start and start == _start(int(pid)):
                with suppress(psutil.NoSuchProcess):
                    yield psutil.Process(int(pid))


def of_stack(home: Path) -> list[psutil.Process]:
    """What the stack in `home` started and what came of it, but this process and its parents.

    PostgreSQL's children outlive a killed postmaster, and nothing tells whose they were but the cluster they work in.
    """
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    started = list(_recorded(home))
    for process in tuple(started):
        with suppress(psutil.NoSuchProcess):
            started += process.children(recursive=True)
    started += [process for process in psutil.process_iter() if works_in_cluster_of(process, home)]
    return [process for process in dict.fromkeys(started) if process.pid not in own and _lives(process)]


def works_in_cluster_of(process: psutil.Process, home: Path) -> bool:
    folders = [home / "postgres", *(home / "pairs").glob("postgres-*")]
    return any(works_in(process, folder) for folder in folders)


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_frozen(pid: int) -> bool:
    """Whether a process has been stopped, as by `just freeze`. One that has ended is not."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def thaw(pids: Sequence[int]) -> None:
    """Let frozen processes, and their children, go on: frozen, they could not end."""
    send(pids, signal.SIGCONT)


def send(pids: Sequence[int], number: signal.Signals) -> None:
    """Send a signal to processes and all their children."""
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            for member in (process, *process.children(recursive=True)):
                with suppress(psutil.NoSuchProcess):
                    member.send_signal(number)


def stop(left: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Stop what an earlier run left, in the order of a normal stop: supervisord, services, Kafka, PostgreSQL. Returns
    what could not be stopped."""
    for kind, number, timeout_s in (
        ("supervisord", signal.SIGKILL, 5),
        ("service", signal.SIGTERM, SERVICES_STOP_S),
        ("java", signal.SIGTERM, SERVERS_STOP_S),
        ("postgres", signal.SIGINT, SERVERS_STOP_S),
        ("", signal.SIGKILL, 5),
    ):
        chosen = [process for process in left if process.is_running() and kind in ("", _kind(process))]
        for process in chosen:
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                process.send_signal(signal.SIGCONT)  # a frozen process cannot end
                # PostgreSQL's children end with their postmaster: alone, they must not be interrupted.
                if kind != "postgres" or process.parent() not in chosen:
                    process.send_signal(number)
        psutil.wait_procs(chosen, timeout=timeout_s)
    return [process for process in left if _lives(process)]


def _kind(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        if process.name() in ("java", "postgres"):
            return process.name()
        return "supervisord" if "supervisor.supervisord" in process.cmdline() else "service"
    return "gone"


def describe(process: psutil.Process) -> str:
    try:
        arguments = printable(" ".join(" ".join(process.cmdline()).split()))
        return f"{process.name()} (pid {process.pid}): {shortened(arguments, 78)}"
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return f"pid {process.pid}"


def listening(port: int) -> Iterator[psutil.Process]:
    """The processes that listen on a port, of those that this user may look into."""
    for process in psutil.process_iter():
        try:
            connections = process.net_connections("tcp")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in connections):
            yield process


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
    process = next(listening(port), None)
    return describe(process) if process else "a process of another user"
