"""Prints logs and follows them. On a terminal, lines of JSON become readable; into a pipe they stay what they are."""

import json
import sys
import time
from pathlib import Path

from dev.servers.server import tail

POLL_S = 0.3
LEADING_FIELDS = ("time", "level", "message", "service", "instance")


def show(paths: list[Path], *, lines: int, follow: bool) -> None:
    width = max(len(path.stem) for path in paths) if len(paths) > 1 else 0
    files = [LogFile(path, lines) for path in paths]
    while True:
        for file in files:
            for line in file.news():
                prefix = f"{file.path.stem:<{width}} | " if width else ""
                print(prefix + (readable(line) if sys.stdout.isatty() else line))
        sys.stdout.flush()
        if not follow:
            return
        time.sleep(POLL_S)


class LogFile:
    """A log file read from near its end on, through its rotations."""

    def __init__(self, path: Path, lines: int) -> None:
        self.path = path
        self.inode = path.stat().st_ino if path.exists() else None
        self.position = path.stat().st_size if path.exists() else 0
        self.unread = [line[4:] for line in tail(path, lines).splitlines()] if path.exists() and lines else []
        self.rest = b""

    def news(self) -> list[str]:
        """What was written since the last call, in whole lines."""
        unread, self.unread = self.unread, []
        if not self.path.exists():
            return unread
        found = self.path.stat()
        if found.st_ino != self.inode or found.st_size < self.position:
            self.inode, self.position, self.rest = found.st_ino, 0, b""
        with self.path.open("rb") as file:
            file.seek(self.position)
            written = self.rest + file.read()
            self.position = file.tell()
        *lines, self.rest = written.split(b"\n")
        return unread + [line.decode(errors="replace") for line in lines]


def readable(line: str) -> str:
    """One flat JSON record as a line for people; anything else as it is."""
    try:
        record = json.loads(line)
    except ValueError:
        return line
    if not isinstance(record, dict):
        return line
    fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in LEADING_FIELDS)
    return f"{record.get('time', '')} {record.get('level', ''):<8} {record.get('message', '')} {fields}".rstrip()
