"""Redrives or discards parked events through `ops.dead_letters`, and says before what that would change.

Acts go on in the background, event by event, each in a transaction of its own: when the tab closes, or the console
ends, every event is either marked or as it was.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Final, Literal, Self, TypedDict, cast

import msgspec
import psycopg
from msgspec import Meta, Struct

from common.audit import table as audit
from common.audit.entry import Author, Entry
from common.config.env import Env
from common.errors import Fatal, describe
from common.http import problem
from common.http.problem import FieldError, ProblemError
from common.postgres import Conn
from ops.console.jobs import Attempt, Job, Jobs
from ops.console.parked.listing import Filter, Listing, Service, page
from ops.console.store import SQL
from ops.databases import Databases
from ops.dead_letters.acts import mark
from ops.dead_letters.parked import RecordId, connected, counted, record_id

EVENTS_MAX: Final = 1_000
"""Events in one act."""
COLUMNS: Final = ("topics", "partitions", "offsets", "topic_ids")
"""Of records, as statements take them."""


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


class DryRun(TypedDict):
    """What an act would change, event by event."""

    act: Literal["redrive", "discard"]
    results: list[Attempt]
    would_change: int
    refused: int


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


class Desk:
    """Marks events one after the other, each in a transaction of its own, over one connection to each database."""

    def __init__(self, env: Env, act: Act, author: Author) -> None:
        self._env = env
        self._act = act
        self._author = author
        self._connections: dict[str, Conn] = {}
        self._away: dict[str, str] = {}
        """Why a database does not answer. Its other events are not tried: each would wait for as long."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections.values():
            connection.close()

    def _connection(self, service: str) -> Conn:
        """Connects when it is needed, and again when the session was lost. Raises `Fatal`."""
        connection = self._connections.get(service)
        if connection is None or connection.closed:
            connection = self._connections[service] = connected(service, self._env)
        return connection

    def attempt(self, named: Named, *, dry_run: bool) -> Attempt:
        """Mark one event, or say what marking it would do."""
        act, author = self._act.act, self._author
        chosen = argparse.Namespace(
            command=act, records=[record_id(named.record)], customer=None, all=False,
            actor=author.principal, why=self._act.why.strip() or "dry run", dry_run=dry_run,
        )  # fmt: skip
        done: Attempt = {"service": named.service, "record": named.record, "result": "marked", "count": 0, "detail": ""}
        if (why := self._away.get(named.service)) is not None:
            return {**done, "result": "failed", "detail": f"not tried: {why}"}
        try:
            done["count"] = mark(self._connection(named.service), chosen, author)
        except Exception as error:
            why = describe(error).removeprefix("dlq: ")
            if isinstance(error.__cause__ or error, psycopg.OperationalError):
                self._away[named.service] = why
            elif isinstance(error, Fatal):
                return {**done, "result": "refused", "detail": why}
            return {**done, "result": "failed", "detail": why}
        if not done["count"]:
            return {**done, "result": "unchanged", "detail": "it is not parked any more, or was marked already"}
        if not dry_run:
            entry = Entry(act, f"{named.service} {named.record}", {"why": chosen.why}, f"{done['count']} marked")
            audit.log(author, entry)
        return done


def customers(databases: Databases, names: Iterable[Named]) -> dict[Named, str | None]:
    """Whose events these are: a redrive of one takes along all that are parked of the same customer."""
    records: dict[str, dict[RecordId, Named]] = {}
    for named in names:
        records.setdefault(named.service, {})[record_id(named.record)] = named
    keys: dict[Named, str | None] = {}
    for service, of_service in records.items():
        columns = {name: [record[at] for record in of_service] for at, name in enumerate(COLUMNS)}
        for row in databases[service].query(SQL["customers"], **columns):
            keys[of_service[RecordId(row["topic"], row["partition"], row["offset"], row["named_id"])]] = row["customer"]
    return keys


def dry_run(databases: Databases, env: Env, act: Act, names: Sequence[Named], author: Author) -> DryRun:
    """What the act would change, event by event."""
    names_once = list(dict.fromkeys(names))
    with Desk(env, act, author) as desk:
        results = [desk.attempt(named, dry_run=True) for named in names_once]
    if act.act == "redrive":
        marked = [named for named, result in zip(names_once, results, strict=True) if result["result"] == "marked"]
        results = [*together(results, customers(databases, marked))]
    refused = sum(result["result"] in ("refused", "failed") for result in results)
    return {
        "act": act.act,
        "results": results,
        "would_change": sum(result["count"] for result in results),
        "refused": refused,
    }


def together(results: Iterable[Attempt], keys: Mapping[Named, str | None]) -> Iterator[Attempt]:
    """The results of a redrive, in which the first event of each customer takes along the others."""
    taken: dict[tuple[str, str], str] = {}
    for result in results:
        customer = keys.get(Named(cast("Service", result["service"]), result["record"]))
        first = record = result["record"]
        if customer is not None:
            first = taken.setdefault((result["service"], customer), record)
        if first != record:
            result = {**result, "result": "unchanged", "count": 0, "detail": f"goes along with {first}"}
        yield result


def start(jobs: Jobs, env: Env, act: Act, names: Sequence[Named], author: Author) -> Job:
    """Do it in the background. Raises `ProblemError` 409 while another act is under way."""

    def work(job: Job) -> bool:
        names_once = list(dict.fromkeys(names))
        job.total = len(names_once)
        with Desk(env, act, author) as desk:
            for named in names_once:
                result = desk.attempt(named, dry_run=False)
                job.results.append(result)
                job.done += 1
                job.note = f"{named.service} {named.record}: {result['result']}"
                jobs.report(job)
        marked = sum(result["count"] for result in job.results)
        wrong = sum(result["result"] in ("refused", "failed") for result in job.results)
        job.note = f"{counted(marked, 'event')} marked" + (f", {wrong} refused or failed" if wrong else "")
        return not wrong

    return jobs.start("act", f"{act.act} {counted(len(names), 'event')}", work)
