"""Finds orders, and shows the whole story of one, as `ops.trace` tells it."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, TypedDict, cast, get_args

from msgspec import Meta, Struct

from common.events import Identifier, Milliseconds, PaymentState, Reason, StockState, Uuid
from common.http import problem
from common.http.problem import ProblemError
from common.http.responses import UuidText
from ops.console.parked.listing import VALUE_BYTES_MAX, escaped
from ops.console.store import SQL
from ops.databases import Databases
from ops.log import Log
from ops.trace import sources
from ops.trace.story import LogRecord, Story, tell
from order.api.requests import order_id_in
from order.api.responses import Status

DEPTH: Final = 20_000
"""Orders that one request searches at most."""
CLOCKS_MS: Final = 60_000
"""An order's id has the api's clock in it, `placed_at` is the broker's."""
RECORDS_MAX: Final = 300_000
"""Records of the log that are read for one order: about a second's work."""
LOWEST: Final = "00000000-0000-0000-0000-000000000000"
BEYOND: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
STATUSES: Final = get_args(Status)
REASONS: Final = get_args(Reason)

Moment = Annotated[int, Meta(ge=0, le=2**43)]


class Search(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to look for; times in milliseconds. `order_id` may be the first characters of one."""

    customer_id: Identifier | None = None
    status: Status | None = None
    reason: Reason | None = None
    since: Moment | None = None
    until: Moment | None = None
    order_id: Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{8,36}\Z")] | None = None
    after: Uuid | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


class FoundOrder(TypedDict):
    """An order. Amounts are in minor units, times in ms since the Unix epoch."""

    order_id: UuidText
    customer_id: str
    status: Status
    reason: Reason | None
    amount: int | None
    currency: str | None
    payment: PaymentState | Literal["pending"]
    inventory: StockState | Literal["pending"]
    placed_at: int
    decided_at: int | None
    settled_at: int | None


class OrdersPage(TypedDict):
    """A page of orders, newest first; the `after` of the next one; and how many orders were searched, back to when."""

    orders: list[FoundOrder]
    next: str | None
    searched: int
    searched_to: int | None


class RecordView(TypedDict):
    """A record of the log: its text is escaped, and of limited length."""

    topic: str
    partition: int
    offset: int
    at: int
    key: str | None
    text: str
    bytes: int
    truncated: bool


class OrderRecords(TypedDict):
    """The story of an order, with the records of the log that it was read from."""

    story: Story
    events: list[RecordView]


def id_range(search: Search) -> tuple[str, str]:
    """The ids between which the orders are: from the first one to before the second. A UUIDv7 begins with its time."""
    if search.order_id is not None:
        digits = search.order_id.lower().replace("-", "")
        return _uuid(digits.ljust(32, "0")), _next(digits)
    low = LOWEST if search.since is None else _at(max(0, search.since - CLOCKS_MS))
    high = BEYOND if search.until is None else _at(search.until + CLOCKS_MS)
    return low, high


def _next(digits: str) -> str:
    """The first id that does not begin with these digits; ids that begin with all f are none."""
    return _uuid(f"{min(int(digits, 16) + 1, 16 ** len(digits) - 1):0{len(digits)}x}".ljust(32, "0"))


def _at(at_ms: int) -> str:
    return _uuid(f"{at_ms:012x}".ljust(32, "0"))


def _uuid(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


def time_of(order_id: str) -> Milliseconds:
    """When an id was made."""
    return Milliseconds(int(order_id.replace("-", "")[:12], 16))


def search(databases: Databases, wanted: Search) -> OrdersPage:
    """A page of orders, newest first. Raises `Unreadable`."""
    low, high = id_range(wanted)
    below = high if wanted.after is None else min(wanted.after, high)
    filters = {name: getattr(wanted, name) for name in ("customer_id", "status", "reason", "since", "until")}
    rows = databases["order"].query(
        SQL["search" if wanted.customer_id is None else "search_of_customer"],
        **filters, **{"from": low}, below=below, depth=DEPTH, limit=wanted.limit,
    )  # fmt: skip
    searched, last = rows[0]["searched"], rows[0]["last"]
    found = [row for row in rows if row["order_id"] is not None]
    for row in found:
        del row["searched"], row["last"]
    last_shown = found[-1]["order_id"] if len(found) == wanted.limit else None
    return {
        "orders": cast("list[FoundOrder]", found),
        "next": last_shown or (last if searched == DEPTH else None),
        "searched": searched,
        "searched_to": time_of(last) if last else None,
    }


def story(databases: Databases, text: str, log: Log | None = None) -> tuple[Story, Sequence[LogRecord]]:
    """What the databases know of an order and, with `log`, what the log has of it. Raises `ProblemError` 404 if none
    of them knows it."""
    order_id = order_id_in(text)
    if order_id is None:
        raise ProblemError(problem.not_found("order", text[:64]))
    if log is None:
        found = sources.find_stored(order_id, databases)
    else:
        found = sources.find(order_id, databases, log, RECORDS_MAX)
    told = tell(order_id, found)
    if told.is_empty and not told.unread:
        raise ProblemError(problem.not_found("order", order_id))
    return told, found.records or ()


def shown(record: LogRecord) -> RecordView:
    """A record as the page shows it: escaped, and of limited length."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "at": record.at,
        "key": None if record.key is None else escaped(record.key),
        "text": escaped(record.value),
        "bytes": len(record.value),
        "truncated": len(record.value) > VALUE_BYTES_MAX,
    }
