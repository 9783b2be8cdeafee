"""Which events go to which topics, and that the loop and the saga publish them there."""

from typing import Any, get_args

import pytest

from common.codec import decoder_for, encode
from common.consume.loop import Session
from common.consume.records import Received
from common.events import (
    INVENTORY,
    ORDERS,
    OUTCOMES,
    PAYMENTS,
    PUBLISHES,
    READERS,
    READS,
    SAGA,
    SENDS,
    TOPICS,
    TOPICS_OF,
    Event,
    Milliseconds,
    OrderCancelled,
    OrderConfirmed,
    OrderRejected,
    Outcome,
    PaymentCompleted,
    PaymentData,
    make,
)
from common.kafka.broker import Partition
from common.kafka.produce.batch import Outgoing
from order.saga.consumer import Batch, SagaHandler
from tests.unit.orders import CUSTOMER, about, cancelled, order_id, rejected

PARTITION = 3
CONFIRMED = about(OrderConfirmed)


def test_an_outcome_is_in_outcomes_and_what_is_to_be_undone_in_orders_as_well() -> None:
    assert TOPICS_OF[OrderConfirmed] == (OUTCOMES,)
    assert TOPICS_OF[OrderRejected] == TOPICS_OF[OrderCancelled] == (ORDERS, OUTCOMES)
    assert {kind for kind, topics in TOPICS_OF.items() if OUTCOMES in topics} == set(get_args(Outcome))


def test_every_event_that_is_sent_has_topics_and_its_own_is_the_first() -> None:
    assert TOPICS_OF.keys() == {kind for kinds in SENDS.values() for kind in kinds}
    assert {kind for kind, topics in TOPICS_OF.items() if topics[0] != kind.topic} == set()
    assert {topic for topics in TOPICS_OF.values() for topic in topics} == set(TOPICS)


def test_each_service_publishes_to_the_topics_of_its_events_about_orders() -> None:
    assert PUBLISHES == {
        "order-api": (ORDERS,),
        SAGA: (ORDERS, OUTCOMES),
        "payment": (PAYMENTS,),
        "inventory": (INVENTORY,),
    }


def test_no_service_of_tandem_reads_the_outcomes_and_they_are_kept_like_the_others() -> None:
    assert READERS[OUTCOMES] == ()
    assert [group for group, topics in READS.items() if OUTCOMES in topics] == []
    assert {group for readers in READERS.values() for group in readers} == READS.keys()


@pytest.mark.parametrize("event", [CONFIRMED, rejected(), cancelled()], ids=lambda event: type(event).__name__)
def test_an_outcome_is_read_on_either_topic(event: Event) -> None:
    """Older versions wrote confirmations to `orders`."""
    for topic in (ORDERS, OUTCOMES):
        assert decoder_for[topic].decode(encode(event)) == event


class Taken(list[Outgoing]):
    """Stands for the publisher."""

    publish = list.extend


def published(decided: Any) -> list[tuple[str, int, bytes | None, bytes]]:
    """What the loop publishes of these results."""
    session: Any = Session.__new__(Session)
    session._tracer, session._publisher = None, Taken()
    count = session._publish(decided)
    assert count == len(session._publisher)
    return [(record.topic, record.partition, record.key, record.value) for record in session._publisher]


def decided(*outcomes: Outcome) -> Batch:
    return Batch([], [(PARTITION, outcome) for outcome in outcomes], set(), [])


def test_a_confirmation_is_published_once_and_a_refusal_to_both_of_its_topics() -> None:
    key = CUSTOMER.encode()
    assert published(decided(CONFIRMED)) == [(OUTCOMES, PARTITION, key, encode(CONFIRMED))]
    for outcome in (rejected(), cancelled()):
        value = encode(outcome)
        assert published(decided(outcome)) == [(ORDERS, PARTITION, key, value), (OUTCOMES, PARTITION, key, value)]


def test_each_topic_has_the_outcomes_in_the_order_in_which_they_were_decided() -> None:
    records = published(decided(rejected(1), CONFIRMED, cancelled(2), cancelled()))
    values = [encode(event) for event in (rejected(1), cancelled(2), cancelled())]
    assert [value for topic, *_, value in records if topic == ORDERS] == values
    values.insert(1, encode(CONFIRMED))
    assert [value for topic, *_, value in records if topic == OUTCOMES] == values


def test_a_result_has_the_one_topic_of_its_service() -> None:
    data = PaymentData(order_id=order_id(1), customer_id=CUSTOMER, amount=100, currency="EUR")
    paid = make(PaymentCompleted, data, at=Milliseconds(0), traceparent="")
    decided: Any = type("Decided", (), {"results": lambda _: [(PARTITION, paid)]})()
    assert [topic for topic, *_ in published(decided)] == [PAYMENTS]


def test_the_saga_awaits_on_orders_what_it_has_published_there_and_nothing_else() -> None:
    """A confirmation never comes back, so its id would stay for ever."""
    handler = SagaHandler()
    published(Batch([], [(PARTITION, CONFIRMED), (PARTITION, rejected())], handler._own_outcomes, []))
    assert handler._own_outcomes == {rejected().id}
    read_back = Received(Partition(ORDERS, PARTITION), 9, Milliseconds(1), rejected())
    locked: Any = type("Rows", (), {"fetchall": list})()
    handler.decide(locked, [read_back], [])
    assert handler._own_outcomes == set()
