"""What the operator's tools have in common: how they end, how an act is consented to, how they print."""

import argparse
import getpass
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import psycopg
from confluent_kafka import KafkaException

from common.config import ignore_libpq
from common.errors import TandemError, describe
from common.events import SAGA

GROUP_OF: Final = {"order": SAGA, "payment": "payment", "inventory": "inventory"}
"""The consumer group of each service."""
INTERRUPTED: Final = 130
DRY_RUN_NOTE: Final = " (dry run: nothing was changed)"

T = TypeVar("T")


def run(main: Callable[[Sequence[str]], int], *, failed: int = 1) -> NoReturn:
    """End the process with what `main` returns for the command line, or with `failed` when it raises. An error that an
    operator can repair is one line on stderr; any other shows its traceback."""
    try:
        ignore_libpq()
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = failed
    except (TandemError, KafkaException, psycopg.Error, OSError) as error:
        print(describe(error), file=sys.stderr)
        status = failed
    except Exception:
        traceback.print_exc()
        status = failed
    sys.exit(status)


def add_consent(parser: argparse.ArgumentParser) -> None:
    """The arguments of every act that is recorded."""
    parser.add_argument("--why", required=True, help="the reason; it is recorded")
    parser.add_argument("--actor", default=user(), help="who acts; default: the user")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def user() -> str:
    """The name of the user, or the number of a user without a name, as containers have."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return f"uid {os.getuid()}"


def printable(text: str) -> str:
    """The text with control characters escaped: a key from the log must not steer the operator's terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, numbers to the right."""
    cells = [tuple(header), *(tuple(printable(str(cell)) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(c.rjust(w) if c.isdigit() else c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def statements(module: str) -> dict[str, str]:
    """The SQL in the file beside a module (`audit.sql` for `audit.py`), by the names in its lines `-- name: …`."""
    parts = Path(module).with_suffix(".sql").read_text().split("-- name: ")
    return dict(part.split("\n", 1) for part in parts[1:])


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, at most so many at a time."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
