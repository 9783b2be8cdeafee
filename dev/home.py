"""The folder in which a stack keeps everything. It belongs to one stack, and one command at a time may change it.

A file is always replaced as a whole. One that is missing or damaged is never made anew: it held the only copy of what
the databases and the broker depend on. The error names the file and the way out.
"""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import msgspec

from common.errors import Fatal
from common.files import write
from common.secrets.passwords import new_password, password_file, read_password, stored_roles, write_password
from dev.settings import BROKERS, DATABASES, ROLES

MARK = "tandem.mark"
_MARK_TEXT = "This folder is Tandem's. 'just reset' deletes the data in it; without this file, it deletes nothing.\n"
_MADE_EARLIER = frozenset({"bench", "cache", "lock", "lost+found"})
"""What a home may have before its first `just up`: jars, and what the bench keeps."""
SECRETS = "secrets"
SUPERUSER = "postgres"
DATA = (
    "run",
    "supervisor",
    "logs",
    "kafka",
    *(f"kafka-{number}" for number in range(1, int(BROKERS[-1]) + 1)),
    "kafka-quorum.json",
    "postgres",
    "pairs",
    SECRETS,
    "secrets.json",
    "auth",
    "targets.json",
    "stack.json.damaged",
    "stack.json",
)
"""What `just reset` deletes, in this order: while the state remains, `just reset` can be repeated."""
LOCK_WAIT_S = 600
SEE_OPERATIONS = "see docs/OPERATIONS.md, 'Damaged files'"


class HomeError(Exception):
    """The folder, or a file in it, cannot be used; the message says what to do instead."""


def claim(home: Path) -> None:
    """Make the folder, and mark it as Tandem's. Raises `HomeError` if it holds something else already."""
    with _naming(home):
        home.mkdir(parents=True, exist_ok=True)
        if is_marked(home):
            return
        foreign = sorted(n for n in os.listdir(home) if n not in _MADE_EARLIER and not n.startswith(MARK))
        # Another `just up` may have marked it meanwhile.
        if foreign and not is_marked(home) and not _was_made_before_marks(home):
            named = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
            remedy = "set it to an empty folder or a new one"
            raise HomeError(f"TANDEM_HOME={home} holds files that are not Tandem's ({named}); {remedy}")
        write(home / MARK, _MARK_TEXT)


def is_marked(home: Path) -> bool:
    return (home / MARK).is_file()


def _was_made_before_marks(home: Path) -> bool:
    try:
        state = json.loads((home / "stack.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and {"stack", "ports"} <= state.keys()


def has_stack(home: Path) -> bool:
    """Whether a stack was ever started there."""
    return is_marked(home) or any((home / name).exists() for name in ("stack.json", "run"))


def delete_data(home: Path) -> None:
    """Delete everything but the jars. Raises `HomeError`, and then deletes nothing, if the folder is not Tandem's."""
    if not is_marked(home) and not _was_made_before_marks(home):
        raise HomeError(f"{home} has no {MARK}, so it is not Tandem's; nothing was deleted")
    links = [str(home / name) for name in DATA if (home / name).is_symlink()]
    if links:
        raise HomeError(f"nothing was deleted, because these are symbolic links: {', '.join(links)}; delete them first")
    for path in (home / name for name in DATA):
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise HomeError(
                f"{path} could not be deleted: {error}; remove the cause, and 'just reset' again"
            ) from error


@contextlib.contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Let one command at a time change a stack. The next one waits for `LOCK_WAIT_S`. Raises `HomeError`."""
    with _naming(home):
        lock = _open_lock(home / "lock")
    with lock:
        _acquire(lock)
        with contextlib.suppress(OSError):  # a disk that is full or read-only must not keep a stack from being stopped
            lock.truncate(0)
            lock.write(f"{os.getpid()}, just {' '.join(sys.argv[1:2])}")
            lock.flush()
        yield


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("a+")
    except OSError:
        if not path.exists():
            raise
        return path.open()  # it can be locked all the same


def _acquire(lock: IO[str]) -> None:
    until, reported = time.monotonic() + LOCK_WAIT_S, False
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            other = f"another command (pid {lock.read() or 'unknown'})"
        if time.monotonic() > until:
            raise HomeError(f"{other} has not finished after {LOCK_WAIT_S} s; end it, and try again")
        if not reported:
            print(f"waiting until {other} has finished, for {LOCK_WAIT_S} s at most", flush=True)
            reported = True
        time.sleep(0.1)


@contextlib.contextmanager
def _naming(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "set TANDEM_HOME to a folder that you can write to"
        raise HomeError(f"TANDEM_HOME={home} cannot be used: {error.strerror or error}; {remedy}") from error


def check_brokers(home: Path, brokers: int) -> None:
    """Raises `HomeError` when the log was made by another number of brokers: copies of it are not made afterwards."""
    single = (home / "kafka/log/meta.properties").exists()
    several = any(home.glob("kafka-[0-9]/log/meta.properties"))
    if made := (1 if single and brokers > 1 else int(BROKERS[-1]) if several and brokers == 1 else 0):
        remedy = f"set BROKERS={made}, or 'just reset', which deletes all data"
        raise HomeError(f"BROKERS={brokers}, and the log in {home} was made with BROKERS={made}; {remedy}")


def clusters(home: Path) -> list[Path]:
    """The folders of the databases that were made."""
    return [found.parent for name in ("postgres", "pairs/*") for found in sorted(home.glob(f"{name}/PG_VERSION"))]


def make_passwords(home: Path) -> None:
    """Make the passwords that the stack lacks, before it starts. `ops.migrate` gives PostgreSQL those of all roles but
    the superuser's, which was set when the databases were made.

    Raises `HomeError` when that one is missing though there are databases.
    """
    folder = home / SECRETS
    _adopt(home / "secrets.json", folder)
    missing = [role for role in ROLES if role not in stored_roles(folder)]
    if SUPERUSER in missing and any(clusters(home)):
        path = password_file(folder, SUPERUSER)
        raise HomeError(f"{path} is missing, and the databases have the password that it held; {SEE_OPERATIONS}")
    for role in missing:
        write_password(folder, role, new_password())


def check_passwords(home: Path) -> None:
    """Raises `HomeError` when a password of the stack is missing or damaged."""
    for role in ROLES:
        try:
            read_password(home / SECRETS, role)
        except Fatal as error:
            raise HomeError(f"{error}; {SEE_OPERATIONS}") from error


def databases(home: Path) -> list[str]:
    """The databases that have a role of their own, those of further services too."""
    further = set(stored_roles(home / SECRETS)) - set(ROLES)
    return [*DATABASES, *sorted(further)]


def store_password(home: Path, role: str) -> None:
    """Make a password for a further role, unless it has one."""
    if role not in stored_roles(home / SECRETS):
        write_password(home / SECRETS, role, new_password())


def _adopt(path: Path, folder: Path) -> None:
    """Take over the passwords that an earlier version kept in one file. Raises `HomeError` when that is damaged."""
    if not path.exists():
        return
    try:
        passwords = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
        raise HomeError(f"{path} is damaged ({error}); {SEE_OPERATIONS}") from error
    for role, password in passwords.items():
        if password:
            write_password(folder, role, password)
    path.unlink()
