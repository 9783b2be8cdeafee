"""Logs: one flat JSON line a record on standard output, or a readable line on a terminal.

Consumers sum up their batches in one line a second at INFO (`common.consume.tally`); each event has a line at
DEBUG (`LOG_LEVEL=DEBUG`). Fields in use: service, instance, order, customer, trace, topic, partition, offset.
"""

import logging
import sys
from typing import TYPE_CHECKING

import orjson
from loguru import logger

from common.config import Logs
from common.events import Milliseconds, rfc3339

if TYPE_CHECKING:
    from loguru import Message

TEXT_FORMAT = (
    "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> <cyan>{extra[instance]}</cyan> "
    "{message} <dim>{extra}</dim>"
)


def _write_json(message: "Message") -> None:
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
    sys.stdout.write(orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")
    sys.stdout.flush()


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
    if logs.format == "text":
        logger.add(sys.stdout, level=logs.level, format=TEXT_FORMAT, diagnose=False)
    else:
        logger.add(_write_json, level=logs.level, format="{message}\n{exception}", diagnose=False)
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.WARNING, force=True)


def is_debug() -> bool:
    """Whether DEBUG lines are written: to be asked before preparing many of them."""
    return _debug
