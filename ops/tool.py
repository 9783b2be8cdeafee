"""What the operator's tools have in common: how they end, how an act is consented to, how they print."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import psycopg
from confluent_kafka import KafkaException

from common.audit.entry import user
from common.config.env import ignore_foreign_variables
from common.errors import TandemError, describe
from common.events import SAGA
from common.terminal import complain, flushed, open_streams, printable, shortened, width

GROUP_OF: Final = {"order": SAGA, "payment": "payment", "inventory": "inventory"}
"""The consumer group of each service of Tandem."""
_URL: Final = "_AUDITOR_URL"
"""Only a database of ours has it: DATABASE_URL is a name that others use too."""
FAILED: Final = 2
INTERRUPTED: Final = 130
CELL_CHARS: Final = 80
DRY_RUN_NOTE: Final = " (dry run: nothing was changed)"

T = TypeVar("T")


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """End the process with what `main` returns for the command line. When it raises, the exit code is 2 and the last
    line on stderr says why: 1 means that `verify` has found a violation, and nothing else."""
    try:
        ignore_foreign_variables()
        open_streams()
        os.chdir(os.environ.get("TANDEM_CALLER", "."))  # paths begin where the command was typed
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:  # such as `just dlq list | head`
        status = FAILED
    except (TandemError, KafkaException, psycopg.Error, OSError, UnicodeError) as error:
        complain(describe(error))
        status = FAILED
    except Exception as error:
        traceback.print_exc()
        complain(f"this is a bug of Tandem, and what was asked for is not done: {type(error).__name__}: {error}")
        status = FAILED
    sys.exit(status if flushed() else status or FAILED)


def services(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The consumer group of every service that has parked events: also of others, each named after its database."""
    names = (name.removesuffix(_URL).lower() for name in sorted(environ) if name.endswith(_URL))
    return GROUP_OF | {name: name for name in names if name not in GROUP_OF}


def add_consent(parser: argparse.ArgumentParser) -> None:
    """The arguments of every act that is recorded."""
    parser.add_argument("--why", required=True, help="the reason; it is recorded")
    parser.add_argument("--actor", default=user(), help="who acts; default: the user")
    parser.add_argument("--dry-run", action="store_true", help="only show what would be done")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, numbers to the right. A long text is cut, so that one does not widen every row."""
    cells = [tuple(header), *(tuple(shortened(printable(str(cell)), CELL_CHARS) for cell in row) for row in rows)]
    widths = [max(width(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        columns = []
        for text, columns_wide in zip(row, widths, strict=True):
            padding = " " * (columns_wide - width(text))
            columns.append(padding + text if text.isdigit() else text + padding)
        print("  ".join(columns).rstrip())


def statements(module: str) -> dict[str, str]:
    """The SQL in the file beside a module (`audit.sql` for `audit.py`), by the names in its lines `-- name: …`."""
    parts = Path(module).with_suffix(".sql").read_text().split("-- name: ")
    return dict(part.split("\n", 1) for part in parts[1:])


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
