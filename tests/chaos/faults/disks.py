"""Disks that are slow, or full."""

import subprocess
import time
from contextlib import contextmanager, suppress
from typing import Final

from tests.chaos.arena import Arena
from tests.chaos.faults.fault import Injected, NotPossible, rises
from tests.chaos.faults.processes import server
from tests.chaos.schedule import Fault

FLUSH_US: Final = 100_000
"""The delay of each flush of the WAL: the most that PostgreSQL allows."""
COMMITS: Final = 5
ENDS_S: Final = 2.0
"""How long a server whose disk was full may take to end."""


@contextmanager
def slow_disk(arena: Arena, _: Fault) -> Injected:
    """PostgreSQL itself puts each flush of its log off, as a slow disk would."""
    with arena.postgres.connect() as owner:
        owner.execute(f"ALTER SYSTEM SET commit_delay = {FLUSH_US}")
        owner.execute("ALTER SYSTEM SET commit_siblings = 0")
        owner.execute("SELECT pg_reload_conf()")

    def witness() -> str:
        """The longest of some commits. A commit that joins a delayed flush waits less."""
        took_s = 0.0
        with arena.postgres.connect() as owner:
            for _ in range(COMMITS):
                began = time.monotonic()
                owner.execute("SELECT pg_logical_emit_message(true, 'chaos', '')")
                took_s = max(took_s, time.monotonic() - began)
        return f"a commit takes {took_s * 1000:.0f} ms" if took_s * 1_000_000 > FLUSH_US else ""

    try:
        yield witness
    finally:
        with arena.postgres.connect() as owner:
            owner.execute("ALTER SYSTEM RESET commit_delay")
            owner.execute("ALTER SYSTEM RESET commit_siblings")
            owner.execute("SELECT pg_reload_conf()")


@contextmanager
def disk_full(arena: Arena, fault: Fault) -> Injected:
    """No byte is free. PostgreSQL refuses to write or fails to restart, and the broker stops."""
    disk = arena.disks[fault.target]
    if not disk.mounted:
        raise NotPossible("a disk of its own takes the right to mount")
    hit = server(arena, fault.target)
    refusals = rises(lambda: hit.log.read_text(errors="replace").count("No space left on device"), "times refused")
    disk.fill()
    try:
        yield refusals
    finally:
        disk.free()
        assert hit.process is not None
        with suppress(subprocess.TimeoutExpired):
            hit.process.wait(ENDS_S)
            hit.start()
