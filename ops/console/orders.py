"""Finds orders, and tells the whole story of one: what each database and the log know of it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, get_args

import orjson
from confluent_kafka import Consumer, Message, TopicPartition
from msgspec import Meta, Struct

from common.events import INVENTORY, ORDERS, PAYMENTS, Identifier, Milliseconds, OrderId, Reason
from common.http import problem
from common.http.problem import ProblemError
from common.kafka.broker import Partition
from ops.console import parked
from ops.console.parked import VALUE_BYTES_MAX, escaped
from ops.console.store import Databases, Unreadable
from ops.log import Log, Tail
from order.api.requests import is_order_id
from order.api.responses import Status

DEPTH: Final = 20_000
"""Orders that one request searches at most."""
CLOCKS_MS: Final = 60_000
"""An order's id has the api's clock in it, `placed_at` is the broker's."""
SEARCHED_RECORDS: Final = 2_000
"""Records that are looked through for an outcome: the saga stores it before it is published, without its offset."""
EVENTS_MAX: Final = 50
BROKER_S: Final = 5.0
LOWEST: Final = "00000000-0000-0000-0000-000000000000"
BEYOND: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"
STATUSES: Final = get_args(Status)
REASONS: Final = get_args(Reason)

TOPICS: Final = {"order": ORDERS, "payment": PAYMENTS, "inventory": INVENTORY}
"""The topic of an event, by the first part of its type."""

Moment = Annotated[int, Meta(ge=0, le=2**43)]


class Search(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to look for; times in milliseconds. `order_id` may be the first characters of one."""

    customer_id: Identifier | None = None
    status: Status | None = None
    reason: Reason | None = None
    since: Moment | None = None
    until: Moment | None = None
    order_id: Annotated[str, Meta(pattern=r"^[0-9a-fA-F-]{8,36}\Z")] | None = None
    after: Annotated[str, Meta(pattern=r"^[0-9a-f-]{36}\Z")] | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 50


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


def search(databases: Databases, wanted: Search) -> dict[str, Any]:
    """A page of orders, newest first. Raises `Unreadable`."""
    low, high = id_range(wanted)
    below = high if wanted.after is None else min(wanted.after, high)
    filters = {name: getattr(wanted, name) for name in ("customer_id", "status", "reason", "since", "until")}
    rows = databases["order"].rows(
        "search" if wanted.customer_id is None else "search_of_customer",
        **filters, **{"from": low}, below=below, depth=DEPTH, limit=wanted.limit,
    )  # fmt: skip
    searched, last = rows[0]["searched"], rows[0]["last"]
    found = [row for row in rows if row["order_id"] is not None]
    for row in found:
        del row["searched"], row["last"]
    last_shown = found[-1]["order_id"] if len(found) == wanted.limit else None
    return {
        "orders": found,
        "next": last_shown or (last if searched == DEPTH else None),
        "searched": searched,
        "searched_to": time_of(last) if last else None,
    }


def story(databases: Databases, text: str) -> dict[str, Any]:
    """All that the databases know of an order. Raises `ProblemError` 404 if none of them knows it."""
    order_id = text.lower()
    if not is_order_id(order_id):
        raise ProblemError(problem.not_found("order", text[:64]))
    problems: dict[str, str] = {}

    def rows(service: str, name: str, **parameters: Any) -> list[dict[str, Any]]:
        if service in problems:
            return []
        try:
            return databases[service].rows(name, **parameters)
        except Unreadable as error:
            problems[service] = str(error)
            return []

    order = next(iter(rows("order", "order", order_id=order_id)), None)
    payment = next(iter(rows("payment", "payment", order_id=order_id)), None)
    reservation = next(iter(rows("inventory", "reservation", order_id=order_id)), None)
    waiting = [
        parked.shown(service, row)
        for service in databases
        for row in rows(service, "parked_of_order", order_id=order_id)
    ]
    if not (order or payment or reservation or waiting or problems):
        raise ProblemError(problem.not_found("order", order_id))
    customer_id = next((row["customer_id"] for row in (order, payment, reservation) if row), None)
    owner = {"customer_id": customer_id}
    if reservation:
        reservation["items"] = orjson.loads(reservation["items"])
    stages = [] if order is None else list(_stages(order))
    return {
        "order": order,
        "stages": stages,
        "payment": payment,
        "ledger": rows("payment", "ledger", order_id=order_id, **owner) if customer_id else [],
        "account": next(iter(rows("payment", "account", **owner)), None) if customer_id else None,
        "reservation": reservation,
        "parked": waiting,
        "problems": problems,
    }


def _stages(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The timeline of an order's row; takes it, and the text of its items, out of the row."""
    order["items"] = orjson.loads(order["items"])
    for entry in orjson.loads(order.pop("timeline")):
        after_ms = entry["at"] - order["placed_at"] if order["placed_at"] else None
        yield {**entry, "topic": TOPICS.get(entry["event"].partition(".")[0], ""), "after_ms": after_ms}


class Events:
    """The records of one order, as the log has them."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def of(self, told: Mapping[str, Any]) -> dict[str, Any]:
        """The records that an order's story names. Raises `Transient` or `KafkaException`."""
        order = told["order"]
        consumer = self._log.consumer()
        events, missing = [], []
        try:
            for stage in told["stages"][:EVENTS_MAX]:
                partition = Partition(stage["topic"], stage["partition"])
                found = self._record(consumer, partition, stage, OrderId(order["order_id"]))
                if found is None:
                    missing.append(_missing(stage, partition))
                else:
                    events.append(shown(found))
        finally:
            consumer.close()
        return {"events": events, "missing": missing}

    def _record(
        self, consumer: Consumer, partition: Partition, stage: Mapping[str, Any], order_id: OrderId
    ) -> Message | None:
        first, end = self._bounds(consumer, partition)
        if stage["offset"] is not None:
            if not first <= stage["offset"] < end:
                return None
            first, end = stage["offset"], stage["offset"] + 1
        else:
            [at] = consumer.offsets_for_times([TopicPartition(*partition, stage["at"])], BROKER_S)
            first = max(first, at.offset) if at.offset >= 0 else end
            end = min(end, first + SEARCHED_RECORDS)
        tail = Tail(consumer, partition, first, end)
        while tail.is_open:
            for message in tail.fetch():
                if stage["offset"] is not None or _is(message, stage["event"], order_id):
                    return message
        return None

    def _bounds(self, consumer: Consumer, partition: Partition) -> tuple[int, int]:
        first, end = consumer.get_watermark_offsets(TopicPartition(*partition), timeout=BROKER_S)
        return first, end


def _is(message: Message, event: str, order_id: OrderId) -> bool:
    value = message.value() or b""
    return order_id.encode() in value and f'"{event}"'.encode() in value


def _missing(stage: Mapping[str, Any], partition: Partition) -> str:
    if stage["offset"] is None:
        return f"{stage['event']}: not found in {partition} within {SEARCHED_RECORDS} records after its decision"
    return f"{stage['event']}: {partition}@{stage['offset']} is not in the log any more"


def shown(message: Message) -> dict[str, Any]:
    """A record as the page shows it: escaped, and of limited length."""
    value, key = bytes(message.value() or b""), message.key()
    return {
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "at": message.timestamp()[1],
        "key": None if key is None else escaped(bytes(key)),
        "text": escaped(value),
        "bytes": len(value),
        "truncated": len(value) > VALUE_BYTES_MAX,
    }
