"""Reads logs: their last lines, and what is written to them from now on.

On a terminal `show` makes lines of JSON readable, and escapes what would steer it; into a pipe it prints them as they
are.
"""

import json
import sys
import time
from collections.abc import Iterator
from itertools import count as count_from
from itertools import islice
from pathlib import Path

from common.terminal import printable

POLL_S = 0.3
CHUNK_BYTES = 64_000
LEADING_FIELDS = ("time", "level", "message", "service", "instance")


def show(paths: list[Path], *, lines: int, follow: bool) -> None:
    width = max(len(path.stem) for path in paths) if len(paths) > 1 else 0

    def print_lines(path: Path, texts: list[str]) -> None:
        prefix = f"{path.stem:<{width}} | " if width else ""
        for text in texts:
            for shown in readable(text) if sys.stdout.isatty() else [text]:
                print(prefix + shown)

    if not follow:
        for path in paths:
            print_lines(path, last_lines(path, lines))
        return
    logs = [LogFile(path, lines) for path in paths]
    while True:
        for log in logs:
            print_lines(log.path, log.new_lines())
        sys.stdout.flush()
        time.sleep(POLL_S)


def show_lines_naming(text: str, paths: list[Path]) -> bool:
    """Print the lines that contain a text, of these logs and their rotated files, oldest first within each log.
    Returns whether there are any."""
    wanted = text.encode()
    width = max(len(path.stem) for path in paths) if paths else 0
    named = False
    for path in paths:
        end = path.stat().st_size if path.exists() else 0
        for line in reversed([line for line in _lines_backwards(path, end) if wanted in line]):
            named = True
            text_line = line.decode(errors="replace")
            for shown in readable(text_line) if sys.stdout.isatty() else [text_line]:
                print(f"{path.stem:<{width}} | {shown}")
    return named


class LogFile:
    """The whole lines of a log file from its last ones on, through its rotations."""

    def __init__(self, path: Path, lines: int = 0) -> None:
        self.path = path
        self.inode = path.stat().st_ino if path.exists() else None
        self.position = path.stat().st_size if path.exists() else 0
        unfinished, *whole = _last(path, lines, self.position)
        self.unread = decoded(whole)
        self.rest = unfinished

    def new_lines(self) -> list[str]:
        """The whole lines that were written since the last call."""
        unread, self.unread = self.unread, []
        if not self.path.exists():
            return unread
        status = self.path.stat()
        if status.st_ino != self.inode:
            self.rest += self._end_of_rotated()
            self.inode, self.position = status.st_ino, 0
        elif status.st_size < self.position:  # it was emptied
            self.position, self.rest = 0, b""
        self.rest += self._read(self.path)
        *lines, self.rest = self.rest.split(b"\n")
        return unread + decoded(lines)

    def _read(self, path: Path) -> bytes:
        with path.open("rb") as file:
            file.seek(self.position)
            written = file.read()
            self.position = file.tell()
        return written

    def _end_of_rotated(self) -> bytes:
        """What was written between the last call and the rotation."""
        rotated = self.path.with_name(f"{self.path.name}.1")
        return self._read(rotated) if rotated.exists() and rotated.stat().st_ino == self.inode else b""


def last_lines(path: Path, count: int) -> list[str]:
    """The last lines of a log and, as far as they reach back, of its rotated files `path.1`, `path.2`, …"""
    unfinished, *whole = _last(path, count, path.stat().st_size if path.exists() else 0)
    return decoded([*whole, unfinished] if unfinished else whole)[-count:] if count else []


def decoded(lines: list[bytes]) -> list[str]:
    return [line.decode(errors="replace") for line in lines]


def _last(path: Path, count: int, end: int) -> tuple[bytes, ...]:
    """The unfinished line at `end`, then the last `count` lines before it, the oldest first."""
    unfinished, *newest_first = islice(_lines_backwards(path, end), count + 1)
    return unfinished, *reversed(newest_first)


def _lines_backwards(path: Path, end: int) -> Iterator[bytes]:
    """The unfinished line at `end`, then the lines before it, the newest first. A rotation may divide a line."""
    rest = b""
    for chunk in _chunks_backwards(path, end):
        rest, *lines = (chunk + rest).split(b"\n")
        yield from reversed(lines)
    yield rest


def _chunks_backwards(path: Path, end: int) -> Iterator[bytes]:
    """The contents of a log before `end` and of its rotated files, read backwards."""
    file_path = path
    for number in count_from(1):
        if not file_path.exists():
            return
        with file_path.open("rb") as file:
            while end:
                start = max(0, end - CHUNK_BYTES)
                file.seek(start)
                yield file.read(end - start)
                end = start
        file_path = path.with_name(f"{path.name}.{number}")
        end = file_path.stat().st_size if file_path.exists() else 0


def tail(path: Path) -> str:
    """The last lines of a log, indented, for the message of an error."""
    return "\n".join(f"    {printable(line)}" for line in last_lines(path, 20) or [f"({path} is empty)"])


def readable(line: str) -> list[str]:
    """A flat JSON record as lines for people, its traceback below it; anything else as it is, but for what would steer
    the terminal."""
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        return [printable(line.replace("\t", "    "))]
    (*traceback,) = str(record.pop("traceback", "")).splitlines()
    fields = " ".join(f"{key}={value}" for key, value in record.items() if key not in LEADING_FIELDS)
    text = f"{record.get('time', '')} {record.get('level', ''):<8} {record.get('message', '')} {fields}".rstrip()
    return [printable(text), *(printable(below) for below in traceback)]
