"""`python -m ops.audit`: lists who did what to money, stock, parked events and keys, oldest first, from the table
`audit` of every service's database, or of one.

A line is one act: when, in which service, who, by what that is known (a token, an API key, a user of the machine, or
anonymous when AUTH=off), what was done to what, and what came of it. `--json` prints all that is recorded, a JSON
document a line.
"""

import argparse
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from heapq import merge
from typing import Any, Final, get_args

import msgspec

from common.audit.entry import Act
from common.config.env import Env
from common.errors import Fatal
from ops import tool
from ops.databases import Unreadable, databases

LIMIT: Final = 100
LIMIT_MAX: Final = 1_000_000
SQL: Final = tool.statements(__file__)
_COLUMNS: Final = ("acted_at", "service", "principal", "kind", "act", "target", "result", "request_id")


def entries(env: Env, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """The newest entries that match, at most `chosen.limit`, oldest first. Raises `Fatal`."""
    services = [chosen.service] if chosen.service else [*tool.GROUP_OF]
    urls = {service: env.database_url(f"{service.upper()}_AUDITOR_URL") for service in tool.GROUP_OF}
    filters = {
        name: getattr(chosen, name)
        for name in ("principal", "credential", "act", "target", "request_id", "since", "until")
    }
    found: list[list[dict[str, Any]]] = []
    for service, database in databases(urls, "audit").items():
        if service in services:
            try:
                rows = database.query(SQL["entries"], **filters, limit=chosen.limit)
            except Unreadable as error:
                raise Fatal(f"audit: {error}") from error
            finally:
                database.close()
            found.append([{"service": service, **row} for row in rows])
    newest = merge(*found, key=lambda entry: entry["acted_at"], reverse=True)
    return [entry for entry, _ in zip(newest, range(chosen.limit), strict=False)][::-1]


def line_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of an entry in the table. The reason is shown with the result, as it says more than the rest."""
    cells = [entry[name] for name in _COLUMNS]
    why = entry["detail"].get("why")
    return *(str(cell or "-") for cell in cells), str(why or "-")


def limit(text: str) -> int:
    """Raises `argparse.ArgumentTypeError`."""
    if not text.isdecimal() or not 1 <= int(text) <= LIMIT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 to {LIMIT_MAX}")
    return int(text)


def moment(text: str) -> datetime:
    """A time of ISO 8601, in UTC unless it says otherwise. Raises `argparse.ArgumentTypeError`."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must be like 2026-11-29 or 2026-11-29T14:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="audit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--service", choices=tool.GROUP_OF, help="only this service (default: all)")
    parser.add_argument("--principal", help="only what this one did")
    parser.add_argument("--credential", metavar="ID", help="only what was done with this token or API key")
    parser.add_argument("--act", choices=get_args(Act), help="only acts of this kind")
    parser.add_argument("--target", help="only what was done to this, such as 'account cust-000001'")
    parser.add_argument("--request-id", help="only the act of this request")
    parser.add_argument("--since", type=moment, help="only from this time on, in UTC: 2026-11-29 or 2026-11-29T14:00")
    parser.add_argument("--until", type=moment, help="only before this time")
    parser.add_argument("--limit", type=limit, default=LIMIT, help=f"at most so many, the newest (default: {LIMIT})")
    parser.add_argument("--json", action="store_true", help="print a JSON document a line")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    chosen = parse(arguments)
    found = entries(Env("audit"), chosen)
    if chosen.json:
        for entry in found:
            print(msgspec.json.encode(entry).decode())
    elif found:
        tool.print_table(("at", *_COLUMNS[1:], "why"), [line_of(entry) for entry in found])
    else:
        print("audit: no entry matches")
    return 0


if __name__ == "__main__":
    tool.run(main)
