"""Reports what is missing on this machine or in the stack, and what to do about it."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from common.config.env import Env
from common.config.kafka import brokers
from common.errors import TandemError
from common.events import TOPICS
from common.kafka.clients import client_config
from common.kafka.settings import fetch_drift
from dev.compose.engine import engine_problem
from dev.environment import tight_limits
from dev.native.programs import Programs
from dev.native.stack import NativeStack
from dev.servers import jars, processes
from dev.settings import dotenv, unknown_settings

GIB = 1024**3
OTHERS = 0o077  # the permissions of everybody but the owner
DISK_GIB_MIN = 2  # the databases, the topics and a gigabyte of WAL, with room for a day's trials
MEMORY_GIB_MIN = 1.5  # broker 400 MB, PostgreSQL 400 MB, four services 100 MB each
BROKER_GIB = 0.4  # each further broker


@dataclass(frozen=True)
class Finding:
    good: bool
    text: str
    remedy: str = ""


def examine(stack: NativeStack) -> bool:
    """Prints every finding. Returns whether all are good."""
    running = stack.supervisor.running()
    findings = [*machine(stack, running), *secrets(stack.home)]
    if (stack.requested.stack or stack.state.stack) == "compose":
        findings.append(compose_engine())
    else:
        findings += [*programs(stack), *topics(stack)] if running else before_start(stack)
    for finding in findings:
        print(f"{'ok  ' if finding.good else 'BAD '}{finding.text}")
        if not finding.good:
            print(f"    -> {finding.remedy}")
    return all(finding.good for finding in findings)


def machine(stack: NativeStack, running: bool) -> Iterator[Finding]:
    yield Finding(True, f"Python {sys.version.split()[0]} in {sys.prefix}")
    place = next(path for path in (stack.home, *stack.home.parents) if path.is_dir())
    disk = shutil.disk_usage(place).free / GIB
    remedy = f"free some space ({DISK_GIB_MIN} GB are needed), or set TANDEM_HOME to a folder on another disk"
    yield Finding(disk >= DISK_GIB_MIN, f"disk: {disk:.1f} GB free for {stack.home}", remedy)
    memory = psutil.virtual_memory().available / GIB
    for limit in tight_limits():
        yield Finding(False, limit, "raise it, in this shell or for this user")
    for setting in unknown_settings(os.environ, dotenv()):
        yield Finding(False, f"setting: {setting}", "remove it, in the environment or in .env")
    for port in stack.requested.risky_ports():
        yield Finding(False, port, "set another port, in the environment or in .env")
    needed = MEMORY_GIB_MIN + BROKER_GIB * ((stack.requested.brokers or 1) - 1)
    remedy = f"end other programs; {needed:.1f} GB are needed"
    yield Finding(running or memory >= needed, f"memory: {memory:.1f} GB available", remedy)


def secrets(home: Path) -> Iterator[Finding]:
    """Whether another user of this machine could read what lets one in."""
    paths = [home / name for name in ("auth", "secrets")]
    open_ = [str(path) for path in paths if path.exists() and path.stat().st_mode & OTHERS]
    text = f"others can read {', '.join(open_)}" if open_ else "only this user can read them"
    remedy = f"chmod go= {' '.join(open_)}; if others were there, 'just keys rotate-issuer --at-once', and new API keys"
    yield Finding(not open_, f"secrets: {text}", remedy)


def before_start(stack: NativeStack) -> Iterator[Finding]:
    yield Finding(True, "Tandem is down; 'just up' starts it")
    missing = len(jars.missing(stack.settings.cache))
    yield Finding(True, f"jars: {f'{missing} are missing; just up fetches them' if missing else 'all are as pinned'}")
    left = "; ".join(processes.describe(process) for process in processes.of_stack(stack.home))
    yield Finding(not left, f"left by an earlier run: {left or 'nothing'}", "'just up' or 'just down' stops them")
    programs = Programs(stack.requested, stack.state.instances())
    for port, setting, listener in programs.listeners(programs.names):
        state = f"taken by {listener}" if listener else "free"
        remedy = f"stop that process, or change {setting} in .env"
        yield Finding(not listener, f"port {port} ({setting}): {state}", remedy)


def programs(stack: NativeStack) -> Iterator[Finding]:
    names = stack.programs.names  # without the warm-up, which ends by itself
    for name, status in stack.supervisor.statuses().items():
        if name not in names:
            continue
        if status.state != "RUNNING":
            remedy = f"'just start {name}'; if it ends again, 'just logs {name}' shows why"
            yield Finding(False, f"{name}: {status.state.lower()}, {status.remark}", remedy)
            continue
        missing = stack.programs.lacking(status)
        yield Finding(missing is None, f"{name}: {missing or 'ready'}", f"'just logs {name}' may show why")


def topics(stack: NativeStack) -> Iterator[Finding]:
    """Settings of topics that someone has changed. A broker that does not answer is another finding."""
    client = AdminClient(client_config(brokers(Env("doctor", stack.programs.environment())), "doctor"))
    with suppress(TandemError, KafkaException):
        drift = fetch_drift(client, TOPICS)
        yield Finding(
            not drift, f"topics: {'; '.join(map(str, drift)) or 'set as they must be'}", "'just topics create'"
        )


def compose_engine() -> Finding:
    problem = engine_problem()
    remedy = "start Docker, or use the native stack: 'STACK=native just up'"
    return Finding(problem is None, f"Docker: {problem or 'it answers'}", remedy)
