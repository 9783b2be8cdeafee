"""Says what is missing on this machine or in this stack, and what to do about it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from dev.native.stack import NativeStack
from dev.servers import jars, processes
from dev.servers.unprivileged import can_enter_user_namespace
from dev.settings import PORT_SETTINGS, ROOT

DISK_BYTES_MIN = 2 * 1024**3  # the databases, the topics and a gigabyte of WAL, with room for a day's trials
MEMORY_BYTES_MIN = 1536 * 1024**2  # broker 400 MB, PostgreSQL 400 MB, four services 100 MB each


@dataclass(frozen=True)
class Finding:
    good: bool
    what: str
    remedy: str = ""


def examine(stack: NativeStack) -> bool:
    """Prints every finding; False when there is something to do."""
    findings = [*machine(stack), *(compose_engine() if stack.state.stack == "compose" else native(stack))]
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '}{finding.what}")
        if not finding.good:
            print(f"    -> {finding.remedy}")
    return all(finding.good for finding in findings)


def machine(stack: NativeStack) -> Iterator[Finding]:
    yield Finding(True, f"Python {sys.version.split()[0]} in {sys.prefix}")
    stack.home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(stack.home).free
    remedy = "free some space, or put the state elsewhere with TANDEM_HOME"
    yield Finding(free >= DISK_BYTES_MIN, f"disk: {free / 1024**3:.1f} GB free for {stack.home}", remedy)
    available = psutil.virtual_memory().available
    running = stack.supervisor.running()
    enough = running or available >= MEMORY_BYTES_MIN
    yield Finding(enough, f"memory: {available / 1024**3:.1f} GB available", "close something; 1.5 GB are needed")


def native(stack: NativeStack) -> Iterator[Finding]:
    if os.geteuid() == 0:
        allowed = can_enter_user_namespace()
        way = "in a user namespace" if allowed else "as an ordinary user, as user namespaces are refused here"
        yield Finding(True, f"root: PostgreSQL, which refuses to run as root, runs {way}")
    missing = jars.missing(stack.settings.cache)
    yield Finding(True, f"jars: {f'{len(missing)} still to be fetched by just up' if missing else 'all as pinned'}")
    running = stack.supervisor.running()
    if running:
        yield from programs(stack)
        return
    left = processes.of_stack(stack.home)
    yield Finding(True, "the stack is down; 'just up' starts it")
    named = "; ".join(processes.describe(process) for process in left)
    yield Finding(not left, f"left over: {named or 'nothing'}", "'just up' or 'just down' stops them first")
    for name in PORT_SETTINGS:
        port = getattr(stack.asked, name)
        if name != "admin_port_base":
            yield from port_finding(name.upper(), port)
    for instance in stack.instances():
        yield from port_finding("ADMIN_PORT_BASE", stack.asked.admin_port(instance.service, instance.number))


def port_finding(setting: str, port: int) -> Iterator[Finding]:
    taken = processes.is_taken(port)
    holder = f"taken by {processes.holder(port)}" if taken else "free"
    yield Finding(not taken, f"port {port} ({setting}): {holder}", f"stop that, or set {setting} to another in .env")


def programs(stack: NativeStack) -> Iterator[Finding]:
    for name, status in stack.supervisor.statuses().items():
        if status.state != "RUNNING":
            remedy = f"'just start {name}'; if it ends again, 'just logs {name}'"
            yield Finding(False, f"{name}: {status.state.lower()}, {status.remark}", remedy)
            continue
        missing = stack.unready(name)
        yield Finding(missing is None, f"{name}: {missing or 'ready'}", f"'just logs {name}'")


def compose_engine() -> Iterator[Finding]:
    engine = subprocess.run(["docker", "info"], capture_output=True, text=True) if shutil.which("docker") else None
    good = engine is not None and engine.returncode == 0
    reason = "docker is not on PATH" if engine is None else engine.stderr.strip().splitlines()[-1:] or "answers"
    yield Finding(good, f"Docker engine: {reason}", f"start it, or use the native stack: STACK=native just up ({ROOT})")
