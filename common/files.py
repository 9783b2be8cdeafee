"""Files: how many a process may open, which bounds its connections too; how one is replaced, by whom, and noticed."""

import fcntl
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


def raise_limit(wanted: int) -> int:
    """Raise the soft limit of this process and its children towards `wanted`, as far as the hard limit allows. It is
    never lowered. Returns the limit now; `wanted` if there is none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft >= target:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return target


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file atomically: after a crash of this process or the machine it has the old contents or the new.

    Raises `OSError`; the file then keeps its old contents.
    """
    try:
        _replace(path, text, mode)
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time change the files of a folder. It is made, for its owner only, if it is missing."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def stamp(path: Path) -> tuple[int, int, int]:
    """Changes when a file is replaced, written or given to another user. Raises `OSError` when it is away."""
    status = path.stat()
    return status.st_ino, status.st_ctime_ns, status.st_size


class Watched(Generic[T]):
    """What files say, read again when they change. What was good last stays while the new version cannot be used."""

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T], report: Callable[[str], None]) -> None:
        """`read` raises `OSError` while the files cannot be read, and `ValueError` when what they say is of
        no use; `report` gets each such problem once. Raises what `read` raises, and `OSError` when a file is away."""
        self._paths = paths
        self._read = read
        self._report = report
        self._seen = self._stamps()
        self.problem = ""
        """Why the newest version is not in use; empty if it is."""
        self.value = read()

    def refresh(self) -> bool:
        """Read again if a file has changed: microseconds while none has. Returns whether there is a new value now."""
        try:
            stamps = self._stamps()
            if stamps == self._seen:
                return False
            try:
                value = self._read()
            except ValueError as error:
                if not isinstance(error, OSError):
                    self._seen = stamps
                raise
        except (OSError, ValueError) as error:
            if str(error) != self.problem:
                self.problem = str(error)
                self._report(self.problem)
            return False
        self._seen, self.problem, self.value = stamps, "", value
        return True

    def _stamps(self) -> list[tuple[int, int, int]]:
        return [stamp(path) for path in self._paths]


def _replace(path: Path, text: str, mode: int) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")  # two commands may write at once
    unfinished.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
