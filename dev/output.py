"""Output that goes on when nobody reads it any more."""

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Unread(io.RawIOBase):
    """A file descriptor that leads nowhere once its reader has gone; subprocesses inherit that."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer") -> int:
        try:
            return os.write(self._descriptor, data)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)
            return memoryview(data).nbytes


def unbreakable(descriptor: int) -> TextIO:
    """A text stream for lines that never raises `BrokenPipeError`."""
    return io.TextIOWrapper(io.BufferedWriter(_Unread(descriptor)), errors="backslashreplace", line_buffering=True)


def outlive_reader() -> None:
    """Let this process print into a pipe that is closed, as in `just up | head`, and do its work all the same."""
    sys.stdout, sys.stderr = unbreakable(1), unbreakable(2)
