"""Logs: one flat JSON line a record on standard output, or a readable line on a terminal.

Consumers sum up their batches in one line a second at INFO (`common.consume.tally`); each event has a line at
DEBUG (`LOG_LEVEL=DEBUG`). Fields in use: service, instance, order, customer, trace, topic, partition, offset.
"""

import logging
import os
import select
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import orjson
from loguru import logger

from common.config.telemetry import Logs
from common.events import Milliseconds, rfc3339

if TYPE_CHECKING:
    from loguru import Message

TEXT_FORMAT = (
    "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> <cyan>{extra[instance]}</cyan> "
    "{message} <dim>{extra}</dim>"
)
READER_PATIENCE_S: Final = 1.0
CHUNK_BYTES: Final = 4096
"""A pipe with any room takes this many bytes without blocking (PIPE_BUF)."""


class Output:
    """Writes lines to a file, pipe or terminal, and drops them while nobody reads.

    The reader may stand still: a frozen supervisord, a terminal after Ctrl-S. A full pipe would then stop the process,
    and with it its orders (supervisor #1554). The first line waits for the reader; the next ones do not.
    """

    def __init__(self, fd: int, notice: Callable[[int], str], patience_s: float = READER_PATIENCE_S) -> None:
        """`notice` makes the line that follows when the reader is back, from the number of lines that were lost."""
        self._fd = fd
        self._notice = notice
        self._patience_ms = patience_s * 1000
        self._lost = 0
        self._torn = False
        self._room = select.poll()
        self._room.register(fd, select.POLLOUT)

    def write(self, line: str) -> None:
        """Write a whole line, or count it as lost. Raises `OSError` when the reader has closed its end."""
        if self._lost and self._wrote(self._notice(self._lost), 0):
            self._lost = 0
        if self._lost or not self._wrote(line, self._patience_ms):
            self._lost += 1

    def _wrote(self, line: str, patience_ms: float) -> bool:
        rest = ("\n" * self._torn + line).encode(errors="replace")
        while rest:
            if not self._room.poll(patience_ms):
                return False
            rest = rest[os.write(self._fd, rest[:CHUNK_BYTES]) :]
            self._torn = bool(rest)
        return True


def _json_line(message: "Message") -> str:
    record = message.record
    line: dict[str, object] = {
        "time": rfc3339(Milliseconds(int(record["time"].timestamp() * 1000))),
        "level": record["level"].name,
        "message": record["message"],
        **record["extra"],
    }
    if record["exception"] is not None:
        kind, value, _ = record["exception"]
        line["error_type"] = kind.__name__ if kind else None
        line["error"] = str(value)
        line["traceback"] = str(message).partition("\n")[2]
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n"


class _ToLoguru(logging.Handler):
    """Hands records of the standard library's logging (uvicorn, psycopg) to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        level = record.levelname if record.levelname in logging.getLevelNamesMapping() else record.levelno
        logger.opt(exception=record.exc_info).log(level, record.getMessage())


_debug = False


def configure(service: str, instance: str, logs: Logs) -> None:
    """Set up logging for this process."""
    global _debug
    _debug = logs.level == "DEBUG"
    logger.remove()
    logger.configure(extra={"service": service, "instance": instance})

    def notice(lost: int) -> str:
        message = f"{lost} lines of the log were lost: their reader stood still"
        if logs.format == "text":
            return message + "\n"
        now = rfc3339(Milliseconds(time.time_ns() // 1_000_000))
        line = {"time": now, "level": "WARNING", "message": message, "service": service, "instance": instance}
        return orjson.dumps(line).decode() + "\n"

    output = Output(sys.stdout.fileno(), notice)
    if logs.format == "text":
        colours = sys.stdout.isatty()
        logger.add(lambda m: output.write(m), level=logs.level, format=TEXT_FORMAT, colorize=colours, diagnose=False)
    else:
        plain = "{message}\n{exception}"
        logger.add(lambda m: output.write(_json_line(m)), level=logs.level, format=plain, diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


def is_debug() -> bool:
    """Whether DEBUG lines are written: to be asked before preparing many of them."""
    return _debug
