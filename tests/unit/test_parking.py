import json

import pytest

from common.codec import encode
from common.consume.handler import Decided, decide
from common.consume.parking import STOP_ROOTS_MIN, Breaker, Sorted, sort
from common.consume.records import Record, arrival
from common.consume.redrive import Marked, decode_again, discarded
from common.errors import Poison
from common.events import ORDERS, PAYMENTS, Milliseconds, OrderDiscarded
from common.kafka.broker import Partition
from ops.dead_letters.acts import type_named
from ops.verify.sources.log import salvaged
from tests.unit.orders import CUSTOMER, placed

PARTITION = Partition(ORDERS, 3)
GOOD = encode(placed())
WITHOUT_ITEMS = json.dumps(
    {**json.loads(GOOD), "data": {k: v for k, v in json.loads(GOOD)["data"].items() if k != "items"}}
).encode()


def record(offset: int, value: bytes = GOOD, key: bytes | None = CUSTOMER.encode(), topic: str = ORDERS) -> Record:
    return Record(Partition(topic, 3), offset, Milliseconds(offset), key, value)


def sorted_batch(*records: Record, position: int = 0, blocked: dict[bytes, str] | None = None) -> Sorted:
    return sort([arrival(record, 0.0) for record in records], {PARTITION: position}, blocked or {})


def test_a_record_below_the_position_is_a_repeat_and_is_not_parked_again() -> None:
    outcome = sorted_batch(
        record(1), record(2, b"poison"), record(3), position=3, blocked={CUSTOMER.encode(): "parked"}
    )
    assert [r.offset for r in outcome.repeats] == [1]
    assert [p.record.offset for p in outcome.parked] == [3]
    assert outcome.fresh == []


def test_poison_is_a_root_and_later_events_of_its_customer_are_followers() -> None:
    other = b"somebody-else"
    outcome = sorted_batch(record(1), record(2, b"poison"), record(3), record(4, b"more", other))
    assert [r.offset for r in outcome.fresh] == [1]
    assert [(p.record.offset, p.root, p.state) for p in outcome.parked] == [
        (2, True, "parked"),
        (3, False, "parked"),
        (4, True, "parked"),
    ]


def test_an_event_behind_marked_ones_is_parked_already_marked() -> None:
    outcome = sorted_batch(record(1), blocked={CUSTOMER.encode(): "redrive"})
    assert [(p.root, p.state) for p in outcome.parked] == [(False, "redrive")]


class Failing:
    """A handler with a rule that fails."""

    def decide(self, *_: object) -> Decided:
        raise KeyError("cust-000200")


def test_a_rule_that_fails_makes_a_fresh_event_poison_and_never_drops_a_repeat() -> None:
    [event] = sorted_batch(record(1)).fresh
    with pytest.raises(Poison, match="a rule failed on it: KeyError: 'cust-000200'"):
        decide(Failing(), None, [event], [])  # type: ignore[arg-type]
    with pytest.raises(KeyError):
        decide(Failing(), None, [], [event])  # type: ignore[arg-type]


def test_an_event_without_a_key_is_parked_alone() -> None:
    outcome = sorted_batch(record(1, GOOD, None), record(2))
    assert [(p.record.offset, p.root) for p in outcome.parked] == [(1, True)]
    assert [r.offset for r in outcome.fresh] == [2]


@pytest.mark.parametrize("state", ["discard", "decided"])
def test_a_discarded_order_stays_discarded_until_it_is_published(state: str) -> None:
    received = decode_again(Marked(record(1, WITHOUT_ITEMS), "id", state, given_up=True))
    assert received is not None
    assert isinstance(received.event, OrderDiscarded)
    assert received.event.data.customer_id == CUSTOMER


def test_a_redriven_record_must_decode() -> None:
    with pytest.raises(Poison):
        decode_again(Marked(record(1, WITHOUT_ITEMS), "id", "redrive", given_up=False))


def test_discarding_decides_an_order_and_nothing_else() -> None:
    assert decode_again(Marked(record(1, b"<order/>"), "id", "discard", given_up=True)) is None
    assert decode_again(Marked(record(1, GOOD, topic=PAYMENTS), "id", "discard", given_up=True)) is None
    assert decode_again(Marked(record(1, GOOD, b"another"), "id", "discard", given_up=True)) is None


def test_the_type_of_an_event_is_read_whatever_else_is_wrong_with_it() -> None:
    assert type_named(WITHOUT_ITEMS) == "order.placed"
    assert type_named(b'{"specversion":"2.0","type":"order.cancelled"}') == "order.cancelled"
    assert type_named(b"<order/>") == type_named(b"[" * 100_000) == type_named(b'{"type":1}') == ""


def test_bad_data_does_not_trip_the_breaker_and_a_bad_deployment_does() -> None:
    bad_data, bad_deployment = Breaker(), Breaker()
    assert not any(bad_data.count(1_000, 9) for _ in range(100)), "0.9 % is bad data, however long it goes on"
    assert not any(bad_deployment.count(10, 1) for _ in range(STOP_ROOTS_MIN - 1))
    assert bad_deployment.count(10, 1)


def test_the_breaker_forgets_old_failures() -> None:
    breaker = Breaker()
    assert not breaker.count(20_000, STOP_ROOTS_MIN)
    assert not breaker.count(10_000, STOP_ROOTS_MIN - 1)
    assert not breaker.count(10_000, 99)


@pytest.mark.parametrize("field", ["order_id", "customer_id"])
def test_a_discarded_order_whose_ids_no_database_can_store_is_dropped(field: str) -> None:
    """As a decision it would be poison again, and never leave the list."""
    document = json.loads(WITHOUT_ITEMS)
    document["data"][field] = "|\0" * 18
    spoiled = record(1, json.dumps(document).encode(), document["data"]["customer_id"].encode())
    assert discarded(record(1, WITHOUT_ITEMS)) is not None
    assert discarded(spoiled) is None
    assert salvaged(ORDERS, 3, 1, spoiled.key, spoiled.value) is None
