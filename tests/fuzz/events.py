"""Mutated events against everything that reads events: decoders, discarded records, the catalogue, the rules, the
proof.

Only `Poison` may come out of a decoder, never another exception, and what it accepts is the same event when it is
encoded and read again. The rules are total: of what was accepted, they refuse nothing but a `Contradiction`.
"""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from confluent_kafka import Message

from common.codec import decoder_for, encode
from common.consume.records import Received, Record, decode
from common.consume.redrive import discarded
from common.errors import Poison
from common.events import (
    IDENTIFIER_PATTERN,
    INVENTORY,
    ORDERS,
    OUTCOMES,
    PAYMENT_EVENTS,
    PAYMENTS,
    PRODUCTS,
    STOCK_EVENTS,
    TOPICS_OF,
    UUID_PATTERN,
    Contradiction,
    CustomerId,
    DeadlineData,
    Event,
    Item,
    Line,
    Milliseconds,
    OrderCancelled,
    OrderCancelRequested,
    OrderConfirmed,
    OrderDeadlinePassed,
    OrderId,
    OrderPlaced,
    OrderRejected,
    OutcomeData,
    PaymentData,
    PlacedData,
    ProductData,
    ProductId,
    StockData,
    make,
    product_changed,
)
from common.kafka.broker import Partition
from inventory import decide as inventory_rules
from inventory.decide import Product, Reservation
from ops.verify.evidence.kinds import KINDS_OF
from ops.verify.evidence.lines import UNREADABLE
from ops.verify.sources.log import event_of, record_line, salvaged
from order.api.log.catalogue import product_in
from order.saga import decide as saga
from order.saga.decide import Order
from payment import decide as payment_rules
from payment.decide import Account, Payment
from tests.fuzz.mutate import IDENTIFIERS, TOKENS, mutated, odd_json, spoiled

ORDER_ID: Final = OrderId("01997c5e-0000-7000-8000-000000000001")
CUSTOMER_ID: Final = CustomerId("cust-1")
AT: Final = Milliseconds(1_700_000_000_123)
TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SLOW_S: Final = 1.0
"""CPU time."""
_UUID: Final = re.compile(UUID_PATTERN)
_IDENTIFIER: Final = re.compile(IDENTIFIER_PATTERN)
_CURRENCY: Final = re.compile("[A-Z]{3}")
_TRACE: Final = re.compile(r"[\x20-\x7e]{0,128}")


def valid_events(order_id: str, customer_id: str) -> list[Event]:
    """An event of each type about one order, and one of the catalogue."""
    order: dict[str, Any] = {"order_id": order_id, "customer_id": customer_id}
    outcome = OutcomeData(**order, reason="customer")
    paid = PaymentData(**order, amount=3998, currency="EUR", reason="insufficient_funds")
    stock = StockData(**order, items=(Line("sku-1", 2),), reason="out_of_stock")
    placed = PlacedData(**order, items=(Item("sku-1", 2, 1999), Item("sku-2", 1, 0)), amount=3998, currency="EUR")
    product = ProductData(product_id="sku-1", name="a thing", unit_price=1, currency="EUR", active=True, version=7)
    events: list[Event] = [make(OrderPlaced, placed, at=AT, traceparent=TRACE)]
    events.append(make(OrderDeadlinePassed, DeadlineData(**order, deadline_ms=9), at=AT, traceparent=TRACE))
    outcomes = (OrderCancelRequested, OrderConfirmed, OrderRejected, OrderCancelled)
    events += (make(kind, outcome, at=AT, traceparent=TRACE) for kind in outcomes)
    events += (make(kind, paid, at=AT, traceparent=TRACE) for kind in PAYMENT_EVENTS.values())
    events += (make(kind, stock, at=AT, traceparent="") for kind in STOCK_EVENTS.values())
    return [*events, product_changed(product, at=AT)]


def topics_with(event: Event) -> tuple[str, ...]:
    """The topics that may have such an event. Older versions wrote confirmations to `orders`."""
    topics = TOPICS_OF[type(event)]
    return (*topics, ORDERS) if isinstance(event, OrderConfirmed) else topics


_VALID: Final = [
    (topic, encode(event)) for event in valid_events(ORDER_ID, CUSTOMER_ID) for topic in topics_with(event)
]
_OTHERS: Final = [value for _, value in _VALID]


def draw(seed: int, number: int) -> Record:
    """Record `number` of `seed`."""
    drawn = random.Random(f"{seed}/{number}")
    topic, valid = drawn.choice(_VALID)
    if drawn.random() < 0.1:
        return _of_another_name(drawn, topic, number, valid)
    value = mutated_event(drawn, valid)
    key = drawn.choices((CUSTOMER_ID.encode(), None, b"", b"other", b"\xff\xfe", b"k" * 4_000), (20, 1, 1, 1, 1, 1))[0]
    if drawn.random() < 0.05:
        topic = drawn.choice((ORDERS, OUTCOMES, PAYMENTS, INVENTORY, PRODUCTS))
    return Record(Partition(topic, 0), number, AT, key, value)


def _of_another_name(drawn: random.Random, topic: str, number: int, valid: bytes) -> Record:
    """A customer or a product with an odd name, and nothing else wrong."""
    name = drawn.choice([name for name in IDENTIFIERS if isinstance(name, str)])
    replaced = drawn.choice((CUSTOMER_ID, "sku-1"))
    value = valid.replace(f'"{replaced}"'.encode(), json.dumps(name).encode())
    key = name if replaced == CUSTOMER_ID else CUSTOMER_ID
    return Record(Partition(topic, 0), number, AT, key.encode(), value)


def mutated_event(drawn: random.Random, valid: bytes) -> bytes:
    """An event with something wrong in it, in most cases."""
    document = json.loads(valid)
    match drawn.randrange(6):
        case 0:
            return json.dumps(spoiled(drawn, document)).encode()
        case 1:
            return json.dumps(document | {"data": spoiled(drawn, document["data"])}).encode()
        case 2:
            return odd_json(drawn, document)
        case 3:
            inner = odd_json(drawn, document["data"])
            return json.dumps(document | {"data": "@@"}).encode().replace(b'"@@"', inner)
        case 4:
            return mutated(drawn, valid, _OTHERS)
    return mutated(drawn, json.dumps(document, indent=drawn.choice((None, 1))).encode(), TOKENS, times=1)


class Wrong(Exception):
    """A reader of events did what it must not do."""


class Outcome(NamedTuple):
    """The results for many records: how many were accepted and refused, by topic; and what was wrong, by number."""

    counts: Counter[tuple[str, str]]
    wrong: dict[int, str]


def run(seed: int, numbers: Iterable[int]) -> Outcome:
    outcome = Outcome(Counter(), {})
    for number in numbers:
        record = draw(seed, number)
        began = time.process_time()
        try:
            verdict = judge(record)
            if time.process_time() - began > SLOW_S:
                raise Wrong(f"took {time.process_time() - began:.1f} s")
        except Wrong as wrong:
            outcome.wrong[number] = f"{wrong}: {record.key!r} {record.value[:1_000]!r}"
        else:
            outcome.counts[record.partition.topic, verdict] += 1
    return outcome


def judge(record: Record) -> str:
    """Whether the record is accepted or refused. Raises `Wrong`."""
    if record.partition.topic == PRODUCTS:
        return _judge_product(record.value)
    try:
        given_up = discarded(record)
        if given_up is not None:
            _judge_texts(given_up.event)
            _judge_rules(given_up)
    except Wrong:
        raise
    except Exception as error:
        raise Wrong(f"discarded: {type(error).__name__}: {error}") from error
    try:
        audited = _audited(record)
    except Exception as error:
        raise Wrong(f"verify: {type(error).__name__}: {error}") from error
    try:
        received = decode(record)
    except Poison:
        return "refused"
    except Exception as error:
        raise Wrong(f"decode: {type(error).__name__}: {error}") from error
    try:
        again = decode(msgspec.structs.replace(record, value=encode(received.event)))
    except Exception as error:
        raise Wrong(f"encoded again: {type(error).__name__}: {error}") from error
    _judge_texts(received.event)
    if audited.endswith(UNREADABLE):
        raise Wrong(f"verify cannot read {received.event}: {audited}")
    if again.event != received.event:
        raise Wrong(f"{received.event} is another event when it is encoded again: {again.event}")
    _judge_rules(received)
    return "accepted"


def _audited(record: Record) -> str:
    """The line that the proof makes of a record; `UNREADABLE` if it can make none."""
    topic, number = record.partition
    salvaged(topic, number, record.offset, record.key, record.value)
    decoded = event_of(KINDS_OF[topic], record.value)
    if decoded is None:
        return UNREADABLE
    kind, data = decoded
    return record_line(data.order_id, number, (0, kind, record.offset, record.at, data, "")) or UNREADABLE


def _judge_texts(event: Any) -> None:
    """Every field of an accepted event is well formed, however the decoder checks it."""
    data = event.data
    products = [item.product_id for item in getattr(data, "items", ())]
    currency = getattr(data, "currency", None)
    fit = (
        _UUID.match(data.order_id)
        and all(_IDENTIFIER.match(name) for name in (data.customer_id, *products))
        and (currency is None or _CURRENCY.fullmatch(currency))
        and _TRACE.fullmatch(event.traceparent)
    )
    if not fit:
        raise Wrong(f"accepted: {event}")


def _judge_product(value: bytes) -> str:
    try:
        product = product_in(Message(topic=PRODUCTS, partition=0, offset=0, value=value))
    except Exception as error:
        raise Wrong(f"the catalogue: {type(error).__name__}: {error}") from error
    if product is None:
        return "refused"
    try:
        again = decoder_for[PRODUCTS].decode(encode(product_changed(product, at=AT)))
    except Exception as error:
        raise Wrong(f"encoded again: {type(error).__name__}: {error}") from error
    if again.data != product:
        raise Wrong(f"{product} is another product when it is encoded again")
    return "accepted"


_PLACED: Final = Order(
    order_id=ORDER_ID, customer_id=CUSTOMER_ID, traceparent=TRACE, status="pending", payment="completed", placed_at=AT
)
_KNOWN: Final[Sequence[Order | None]] = (None, _PLACED)
_ACCOUNTS: Final = {CUSTOMER_ID: Account(10**6, "EUR")}
_PRODUCTS: Final = {ProductId("sku-1"): Product(10, True), ProductId("sku-2"): Product(10, True)}
_PAYMENTS: Final[Sequence[dict[OrderId, Payment]]] = (
    {},
    {
        ORDER_ID: Payment(
            order_id=ORDER_ID, customer_id=CUSTOMER_ID, state="completed", amount=3998, currency="EUR", decided_at=AT
        )
    },
)
_RESERVATIONS: Final[Sequence[dict[OrderId, Reservation]]] = (
    {},
    {
        ORDER_ID: Reservation(
            order_id=ORDER_ID, customer_id=CUSTOMER_ID, state="reserved", lines=(Line("sku-1", 2),), decided_at=AT
        )
    },
)


def _judge_rules(received: Received) -> None:
    event, at = received.event, received.at
    for attempt in _attempts(event, at):
        try:
            attempt()
        except Contradiction:
            pass
        except Exception as error:
            raise Wrong(f"the rules: {type(error).__name__}: {error}") from error


def _attempts(event: Any, at: Milliseconds) -> Iterator[Any]:
    for order in _KNOWN:
        yield lambda o=order: saga.advance(o, event, at)
    if _is_for_the_sides(event):
        for payments in _PAYMENTS:
            yield lambda p=payments: payment_rules.decide(_ACCOUNTS, p, [(event, at)])
        for reservations in _RESERVATIONS:
            yield lambda r=reservations: inventory_rules.decide(_PRODUCTS, r, [(event, at)])


def _is_for_the_sides(event: Any) -> bool:
    """Whether payment and inventory answer it."""
    return isinstance(event, payment_rules.Relevant)
