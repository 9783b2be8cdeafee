"""Dead letters: lists parked events with filters, shows one, and redrives or discards them through `ops.dead_letters`.

Acts go on in the background, event by event, each in a transaction of its own: when the tab closes, or the console
ends, every event is either marked or as it was.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypedDict, cast

import msgspec
from msgspec import Meta, Struct

from common.audit import table as audit
from common.audit.entry import Author, Entry
from common.config.env import Env
from common.errors import Fatal, describe
from common.http import problem
from common.http.problem import FieldError, ProblemError
from common.terminal import printable
from ops.console.jobs import Attempt, Job, Jobs
from ops.console.store import SQL
from ops.databases import Databases, Unreadable
from ops.dead_letters.acts import mark
from ops.dead_letters.parked import RecordId, connected, counted, record_id

EVENTS_MAX: Final = 1_000
"""Events in one act."""
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
    topic: Literal["orders", "payments", "inventory"] | None = None
    error: _Text | None = None
    root: bool | None = None
    since: Moment | None = None
    until: Moment | None = None


class Listing(Filter, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of them; by default of those that are not done."""

    state: Literal["open", "parked", "redrive", "discard", "decided", "done"] = "open"
    after: Annotated[str, Meta(pattern=_CURSOR, description="the `next` of the page before")] | None = None
    limit: Annotated[int, Meta(ge=1, le=500)] = 100


class Named(Struct, frozen=True, forbid_unknown_fields=True):
    """A parked event of a service, by its record: `orders/3@17`."""

    service: Service
    record: Annotated[str, Meta(max_length=200)]


class Act(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to do to which events, and why: to those named, or to all that are parked and match the filter."""

    act: Literal["redrive", "discard"]
    why: Annotated[str, Meta(max_length=500)] = ""
    dry_run: bool = False
    events: Annotated[list[Named], Meta(min_length=1, max_length=EVENTS_MAX)] | None = None
    filter: Filter | None = None


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


class DryRun(TypedDict):
    """What an act would change, event by event."""

    act: Literal["redrive", "discard"]
    results: list[Attempt]
    would_change: int
    refused: int


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


def named_by(databases: Databases, act: Act) -> list[Named]:
    """The events of an act. Raises `ProblemError` 422 when it names none or both ways, has no reason, or would be of
    too many."""
    if (act.events is None) is (act.filter is None):
        raise ProblemError(problem.validation(FieldError("", "must have either events or filter")))
    if not act.why.strip() and not act.dry_run:
        raise ProblemError(problem.validation(FieldError("#/why", "must say why; it is recorded with the act")))
    for number, named in enumerate(act.events or ()):
        try:
            record_id(named.record)
        except argparse.ArgumentTypeError as error:
            raise ProblemError(problem.validation(FieldError(f"#/events/{number}/record", str(error)))) from None
    if act.filter is None:
        return list(act.events or ())
    wanted = Listing(**msgspec.structs.asdict(act.filter), state="parked", limit=500)
    names: list[Named] = []
    while len(names) <= EVENTS_MAX:
        found = page(databases, wanted)
        if found["problems"]:
            raise ProblemError(problem.unavailable("; ".join(found["problems"].values())))
        names += [Named(cast("Service", event["service"]), event["record"]) for event in found["events"]]
        if found["next"] is None:
            return names
        wanted = msgspec.structs.replace(wanted, after=found["next"])
    detail = f"it matches more than {EVENTS_MAX} events; narrow it, or use 'just dlq'"
    raise ProblemError(problem.validation(FieldError("#/filter", detail)))


Key = tuple[str, str | None]


def customers(databases: Databases, names: Iterable[Named]) -> dict[Named, Key]:
    """Whose events these are: a redrive of one takes along all that are parked of the same customer."""
    keys: dict[Named, Key] = {}
    for named in names:
        event = one(databases, named.service, named.record)
        keys[named] = named.service, event["key"]
    return keys


def attempt(env: Env, act: Act, named: Named, author: Author, *, dry_run: bool) -> Attempt:
    """Mark one event, or say what marking it would do."""
    chosen = argparse.Namespace(
        command=act.act, records=[record_id(named.record)], customer=None, all=False,
        actor=author.principal, why=act.why.strip() or "dry run", dry_run=dry_run,
    )  # fmt: skip
    done: Attempt = {"service": named.service, "record": named.record, "result": "marked", "count": 0, "detail": ""}
    try:
        with connected(named.service, env) as connection:
            done["count"] = mark(connection, chosen, author)
    except Fatal as error:
        return {**done, "result": "refused", "detail": str(error).removeprefix("dlq: ")}
    except Exception as error:
        return {**done, "result": "failed", "detail": describe(error)}
    if not done["count"]:
        return {**done, "result": "unchanged", "detail": "it is not parked any more, or was marked already"}
    if not dry_run:
        entry = Entry(act.act, f"{named.service} {named.record}", {"why": chosen.why}, f"{done['count']} marked")
        audit.log(author, entry)
    return done


def dry_run(databases: Databases, env: Env, act: Act, names: Sequence[Named], author: Author) -> DryRun:
    """What the act would change, event by event."""
    keys: dict[Named, Key] = {}
    taken: dict[Key, str] = {}
    results = []
    for named in dict.fromkeys(names):
        result = attempt(env, act, named, author, dry_run=True)
        if act.act == "redrive" and result["result"] == "marked":
            keys |= customers(databases, [named])
            first = taken.setdefault(keys[named], named.record)
            if keys[named][1] is not None and first != named.record:
                result = {**result, "result": "unchanged", "count": 0, "detail": f"goes along with {first}"}
        results.append(result)
    refused = sum(result["result"] in ("refused", "failed") for result in results)
    return {
        "act": act.act,
        "results": results,
        "would_change": sum(result["count"] for result in results),
        "refused": refused,
    }


def start(jobs: Jobs, env: Env, act: Act, names: Sequence[Named], author: Author) -> Job:
    """Do it in the background. Raises `ProblemError` 409 while another act is under way."""

    def work(job: Job) -> bool:
        names_once = list(dict.fromkeys(names))
        job.total = len(names_once)
        for named in names_once:
            result = attempt(env, act, named, author, dry_run=False)
            job.results.append(result)
            job.done += 1
            job.note = f"{named.service} {named.record}: {result['result']}"
            jobs.report(job)
        marked = sum(result["count"] for result in job.results)
        wrong = sum(result["result"] in ("refused", "failed") for result in job.results)
        job.note = f"{counted(marked, 'event')} marked" + (f", {wrong} refused or failed" if wrong else "")
        return not wrong

    return jobs.start("act", f"{act.act} {counted(len(names), 'event')}", work)
