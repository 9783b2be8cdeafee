"""Lists parked events with filters, and shows one."""

import argparse
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, cast

from msgspec import Meta, Struct

from common.http import problem
from common.http.problem import ProblemError
from common.terminal import printable
from ops.console.store import SQL
from ops.databases import Databases, Unreadable
from ops.dead_letters.parked import RecordId, record_id

VALUE_BYTES_MAX: Final = 64 * 1024
_CURSOR: Final = (
    r"^(order|payment|inventory),[0-9]{1,18},[a-z]{0,20},(-1|[0-9]{1,9}),(-1|[0-9]{1,18}),[A-Za-z0-9+/_-]{0,40}\Z"
)
"""A service, and the last event of a page: when the log got it, in microseconds, and its record."""

Service = Literal["order", "payment", "inventory"]
Moment = Annotated[int, Meta(ge=0, le=2**43)]
_Text = Annotated[str, Meta(pattern=r"^[^\x00]{1,500}\Z")]


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which parked events. Times are those of parking, in milliseconds."""

    service: Service | None = None
    customer: _Text | None = None
    topic: Literal["orders", "outcomes", "payments", "inventory"] | None = None
    error: _Text | None = None
    root: bool | None = None
    since: Moment | None = None
    until: Moment | None = None


class Listing(Filter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of them; by default of those that are not done."""

    state: Literal["open", "parked", "redrive", "discard", "decided", "done"] = "open"
    after: Annotated[str, Meta(pattern=_CURSOR, description="the `next` of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class ParkedView(TypedDict):
    """A parked event. `topic_id` is the topic's, times are in ms since the Unix epoch."""

    service: str
    record: str
    topic: str
    partition: int
    offset: int
    topic_id: str
    customer: str | None
    root: bool
    state: str
    attempts: int
    parked_at: int
    record_at: int
    type: str
    bytes: int
    error: str


class StopView(TypedDict):
    """Why a service has stopped, and since when."""

    service: str
    reason: str
    stopped_at: int


class ParkedPage(TypedDict):
    """A page of parked events, and the `after` of the next one; how many match; the services that have stopped; and
    those that could not be asked, with the reason."""

    events: list[ParkedView]
    next: str | None
    total: int
    stops: list[StopView]
    problems: dict[str, str]


class ActView(TypedDict):
    """What an operator did to a parked event, and why."""

    act: str
    actor: str
    why: str
    acted_at: int


class ParkedWithBytes(ParkedView):
    """A parked event with its bytes, escaped and of limited length, and what operators did to it."""

    key: str | None
    text: str
    truncated: bool
    acts: list[ActView]


class Cursor(NamedTuple):
    """The last event of a page, in the order of `parked` in `store.sql`."""

    service: str
    at: int = 0
    after_topic: str = ""
    after_partition: int = -1
    after_offset: int = -1
    after_id: str = ""

    def __str__(self) -> str:
        return ",".join(map(str, self))


def cursor_in(text: str) -> Cursor:
    """The cursor of a text that its pattern matches."""
    service, at, topic, partition, offset, topic_id = text.split(",")
    return Cursor(service, int(at), topic, int(partition), int(offset), topic_id)


def escaped(value: bytes) -> str:
    """Bytes of anybody as text: what is not printable is escaped, and no more than `VALUE_BYTES_MAX` are shown."""
    return printable(value[:VALUE_BYTES_MAX].decode(errors="backslashreplace"))


def shown(service: str, row: Mapping[str, Any]) -> ParkedView:
    """A row as the page shows it."""
    record = RecordId(row["topic"], row["partition"], row["offset"], row["earlier_topic"])
    names = (
        "topic", "partition", "offset", "topic_id", "customer", "root", "state", "attempts", "parked_at", "record_at",
        "type", "bytes", "error",
    )  # fmt: skip
    return cast("ParkedView", {"service": service, "record": str(record), **{name: row[name] for name in names}})


def page(databases: Databases, wanted: Listing) -> ParkedPage:
    """A page of parked events: service by service, in the order of the log."""
    filters = {name: getattr(wanted, name) for name in Filter.__struct_fields__ if name != "service"}
    filters["state"] = wanted.state
    events: list[ParkedView] = []
    problems: dict[str, str] = {}
    stops: list[StopView] = []
    total, following = 0, None
    services = list(databases)
    cursor = Cursor(services[0]) if wanted.after is None else cursor_in(wanted.after)
    for service in [name for name in services if wanted.service in (None, name)]:
        try:
            total += databases[service].query(SQL["parked_count"], **filters)[0]["total"]
            rows = databases[service].query(SQL["stops"])
            stops += [{"service": service, "reason": row["reason"], "stopped_at": row["stopped_at"]} for row in rows]
            if following is not None or services.index(service) < services.index(cursor.service):
                continue
            after = cursor if cursor.service == service else Cursor(service)
            room = wanted.limit - len(events)
            named = {name: value for name, value in after._asdict().items() if name != "service"}
            rows = databases[service].query(SQL["parked"], **filters, **named, limit=room + 1)
        except Unreadable as error:
            problems[service] = str(error)
            continue
        events += [shown(service, row) for row in rows[:room]]
        if len(rows) > room:
            following = _at(service, rows[room - 1]) if room else after
    return {
        "events": events,
        "next": None if following is None else str(following),
        "total": total,
        "stops": stops,
        "problems": problems,
    }


def _at(service: str, row: Mapping[str, Any]) -> Cursor:
    return Cursor(service, row["sort_at"], row["topic"], row["partition"], row["offset"], row["topic_id"])


def one(databases: Databases, service: str, text: str) -> ParkedWithBytes:
    """A parked event with its bytes, escaped and of limited length, and what operators did to it. Raises `ProblemError`
    404, and `Unreadable`."""
    try:
        record = record_id(text)
    except argparse.ArgumentTypeError:
        record = None
    if record is None or service not in databases:
        raise ProblemError(problem.not_found("parked event", f"{service} {text}"[:200]))
    named = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    rows = databases[service].query(SQL["parked_event"], **named, topic_id=record.topic_id, most=VALUE_BYTES_MAX)
    if not rows:
        raise ProblemError(problem.not_found(f"parked event of {service}", text[:200]))
    row = rows[0]
    return {
        **shown(service, row),
        "key": row["customer"],
        "text": escaped(bytes(row["value"])),
        "truncated": row["bytes"] > VALUE_BYTES_MAX,
        "acts": cast("list[ActView]", databases[service].query(SQL["acts"], **named, topic_id=row["topic_id"])),
    }
