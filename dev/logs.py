"""Reads logs: their last lines, and what is written to them from now on.

On a terminal `show` makes lines of JSON readable; into a pipe it prints them as they are.
"""

import json
import sys
import time
from pathlib import Path

POLL_S = 0.3
TAIL_BYTES = 64_000
LEADING_FIELDS = ("time", "level", "message", "service", "instance")


def show(paths: list[Path], *, lines: int, follow: bool) -> None:
    width = max(len(path.stem) for path in paths) if len(paths) > 1 else 0
    logs = [LogFile(path, lines) for path in paths]
    while True:
        for log in logs:
            for line in log.new_lines():
                prefix = f"{log.path.stem:<{width}} | " if width else ""
                print(prefix + (readable(line) if sys.stdout.isatty() else line))
        sys.stdout.flush()
        if not follow:
            return
        time.sleep(POLL_S)


class LogFile:
    """A log file from its last lines on, through its rotations."""

    def __init__(self, path: Path, lines: int = 0) -> None:
        self.path = path
        self.inode = path.stat().st_ino if path.exists() else None
        self.position = path.stat().st_size if path.exists() else 0
        self.unread = last_lines(path, lines)
        self.rest = b""

    def new_lines(self) -> list[str]:
        """The whole lines that were written since the last call."""
        unread, self.unread = self.unread, []
        if not self.path.exists():
            return unread
        status = self.path.stat()
        if status.st_ino != self.inode or status.st_size < self.position:
            self.inode, self.position, self.rest = status.st_ino, 0, b""
        with self.path.open("rb") as file:
            file.seek(self.position)
            written = self.rest + file.read()
            self.position = file.tell()
        *lines, self.rest = written.split(b"\n")
        return unread + [line.decode(errors="replace") for line in lines]


def last_lines(path: Path, count: int) -> list[str]:
    if not path.exists() or count < 1:
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-count:]


def tail(path: Path) -> str:
    """The last lines of a log, indented, for the message of an error."""
    return "\n".join(f"    {line}" for line in last_lines(path, 20) or [f"({path} is empty)"])


def readable(line: str) -> str:
    """A flat JSON record as a line for people; anything else as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict):
        return line
    fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in LEADING_FIELDS)
    return f"{record.get('time', '')} {record.get('level', ''):<8} {record.get('message', '')} {fields}".rstrip()
