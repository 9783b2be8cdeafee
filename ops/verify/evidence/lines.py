"""What is known of an order, and the lines in which it is put aside until it is judged.

A line is `order id|tag|fields`, whichever source it comes from, so that one pass puts each into a bucket by its order
id and another reads a bucket and has all that is known of its orders. What the log says of an order that went as usual
is one line, see `Whole`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from common.kafka.broker import Partition

ID_LENGTH: Final = 36
SEPARATOR: Final = "|"

# Tags: where a line comes from.
RECORD: Final = "L"
WHOLE: Final = "K"
ORDER: Final = "O"
PAYMENT: Final = "P"
ENTRY: Final = "G"
RESERVATION: Final = "R"
MOVEMENT: Final = "M"
REQUEST: Final = "Q"
CLAIM: Final = "T"
ACCEPTED: Final = "A"

KINDS: Final = {
    "order.placed": "p",
    "order.cancel_requested": "q",
    "order.deadline_passed": "t",
    "order.confirmed": "c",
    "order.rejected": "j",
    "order.cancelled": "x",
    "payment.completed": "C",
    "payment.declined": "D",
    "payment.refunded": "R",
    "payment.void": "V",
    "inventory.reserved": "S",
    "inventory.rejected": "J",
    "inventory.released": "L",
    "inventory.void": "W",
}
"""One letter for each type of event."""
TYPES: Final = {letter: name for name, letter in KINDS.items()}
TOPIC_OF: Final = {
    letter: "orders" if name.startswith("order.") else "payments" if name.startswith("payment.") else "inventory"
    for name, letter in KINDS.items()
}
UNREADABLE: Final = "!"
"""The content of a record that names its order and is otherwise not an event. Readers must have parked it."""


class Record(NamedTuple):
    """A record of the log. `at` is the broker's time in milliseconds, 0 where it is not needed. `content` is what two
    events of one id must agree in, and begins with the customer: of `order.placed` customer, amount, currency and
    items, of payment's customer, amount and currency, of inventory's customer and lines. The outcomes and requests have
    the customer alone: their reason may differ after a database was restored."""

    kind: str
    partition: int
    offset: int
    at: int
    content: str

    @property
    def place(self) -> Partition:
        return Partition(TOPIC_OF[self.kind], self.partition)


class Whole(NamedTuple):
    """All that the log says of an order, in one line: it was placed once and came to an end, every reader has passed
    all of it, and every event says what the order says. `kinds` and `offsets` are those of `orders`, then `payments`,
    then `inventory`; `items` is JSON, as it was placed; `digest` is that of the event, where it is asked for."""

    kinds: str
    partition: str
    offsets: str
    digest: str
    customer_id: str
    amount: str
    currency: str
    items: str

    def records(self) -> Iterator[Record]:
        """The records one by one. Raises `ValueError` and `msgspec.DecodeError` for items that are none."""
        items = placed_items(self.items)
        paid = f"{self.customer_id}|{self.amount}|{self.currency}"
        for kind, offset in zip(self.kinds, self.offsets.split(","), strict=True):
            content = self.customer_id
            if kind == "p":
                content = f"{paid}|{items}"
            elif TOPIC_OF[kind] == "payments":
                content = paid
            elif TOPIC_OF[kind] == "inventory":
                content = f"{self.customer_id}|{per_product(items) if kind in 'SL' else ''}"
            yield Record(kind, int(self.partition), int(offset), 0, content)


class OrderRow(NamedTuple):
    """`placed_at` and `decided_at` are in milliseconds, and there only while the order is not settled."""

    customer_id: str
    partition: int
    status: str
    payment: str
    inventory: str
    settled: str
    placed_at: str
    decided_at: str
    amount: str
    currency: str
    items: str


class PaymentRow(NamedTuple):
    customer_id: str
    state: str
    amount: str
    currency: str


class EntryRow(NamedTuple):
    kind: str
    customer_id: str
    amount: str
    currency: str


class ReservationRow(NamedTuple):
    customer_id: str
    state: str
    items: str


class MovementRow(NamedTuple):
    kind: str
    product_id: str
    quantity: str


class Evidence(Struct):
    """All that is known of one order, in the order in which each source has it."""

    records: list[Record] = []
    orders: list[OrderRow] = []
    payments: list[PaymentRow] = []
    entries: list[EntryRow] = []
    reservations: list[ReservationRow] = []
    movements: list[MovementRow] = []
    requests: list[str] = []
    """The digest of the event that is stored under each idempotency key of it."""
    digests: list[str] = []
    """The digest of each `order.placed` of it, where that is asked for."""
    accepted: bool = False
    claims: bool = False
    """Whether its row says that it was placed by a record that was trimmed."""
    broken: list[str] = []
    """Lines that do not have the form of their source."""


def gather(lines: Iterable[str]) -> dict[str, str]:
    """Put lines together by order: `tag|fields` for each, with line breaks between them."""
    found: dict[str, str] = {}
    known = found.get
    for line in lines:
        order_id = line[:ID_LENGTH]
        before = known(order_id)
        found[order_id] = line[37:] if before is None else f"{before}\n{line[37:]}"
    return found


def read(text: str) -> Evidence:
    """What `gather` has put together of an order."""
    evidence = Evidence()
    for line in text.split("\n"):
        tag, rest = line[:1], line[2:]
        try:
            if tag == RECORD:
                kind, partition, offset, at, content = rest.split(SEPARATOR, 4)
                digest, content = content.split(SEPARATOR, 1) if kind == "p" else ("", content)
                evidence.records.append(Record(kind, int(partition), int(offset), int(at), content))
                if digest:
                    evidence.digests.append(digest)
            elif tag == WHOLE:
                whole = Whole(*rest.split(SEPARATOR, 7))
                evidence.records += whole.records()
                evidence.digests += [whole.digest] if whole.digest else []
            elif tag == ORDER:
                customer, number, *fields = rest.split(SEPARATOR, 10)
                evidence.orders.append(OrderRow(customer, int(number), *fields))
            elif tag == PAYMENT:
                evidence.payments.append(PaymentRow(*rest.split(SEPARATOR)))
            elif tag == ENTRY:
                evidence.entries.append(EntryRow(*rest.split(SEPARATOR)))
            elif tag == RESERVATION:
                evidence.reservations.append(ReservationRow(*rest.split(SEPARATOR, 2)))
            elif tag == MOVEMENT:
                evidence.movements.append(MovementRow(*rest.split(SEPARATOR)))
            elif tag == REQUEST:
                evidence.requests.append(rest)
            elif tag == CLAIM:
                evidence.claims = True
            elif tag == ACCEPTED:
                evidence.accepted = True
            else:
                evidence.broken.append(line)
        except (ValueError, TypeError, msgspec.DecodeError):
            evidence.broken.append(line)
    return evidence


class Priced(NamedTuple):
    """An item of an order as it was placed."""

    product_id: str
    quantity: int
    unit_price: int


def written(items: Iterable[Priced]) -> str:
    """Items as a line has them: `product:quantity:price`, in their order."""
    return ",".join([f"{p}:{q}:{u}" for p, q, u in items])


@lru_cache(65_536)
def total(items: str) -> int:
    """What written items cost."""
    return sum(int(q) * int(u) for _, q, u in _parts(items))


@lru_cache(65_536)
def per_product(items: str) -> str:
    """Written items summed by product, sorted: `product:quantity`."""
    quantities: defaultdict[str, int] = defaultdict(int)
    for product_id, quantity, _ in _parts(items):
        quantities[product_id] += int(quantity)
    return lines(quantities.items())


def lines(quantities: Iterable[tuple[str, int]]) -> str:
    """Quantities of products, sorted: `product:quantity`."""
    return ",".join([f"{p}:{q}" for p, q in sorted(quantities)])


def _parts(items: str) -> list[list[str]]:
    # A product id may hold colons: the last two belong to us.
    return [part.rsplit(":", 2) for part in items.split(",")] if items else []


class _StoredItem(Struct):
    product_id: str
    quantity: int
    unit_price: int = 0


class _PlacedItem(Struct):
    product_id: str
    quantity: int
    unit_price: int


_stored: Final = msgspec.json.Decoder(list[_StoredItem])
_placed: Final = msgspec.json.Decoder(list[_PlacedItem])


@lru_cache(65_536)
def placed_items(items: str) -> str:
    """The JSON of the items of an `order.placed`, as `written`. Raises `msgspec.DecodeError`."""
    return written(Priced(i.product_id, i.quantity, i.unit_price) for i in _placed.decode(items))


@lru_cache(65_536)
def stored_priced(items: str) -> str:
    """The JSON of an order row's items, as `written`. Raises `msgspec.DecodeError`."""
    return written(Priced(i.product_id, i.quantity, i.unit_price) for i in _stored.decode(items))


@lru_cache(65_536)
def stored_lines(items: str) -> str:
    """The JSON of a reservation's items, as `lines`. Raises `msgspec.DecodeError`."""
    return lines((i.product_id, i.quantity) for i in _stored.decode(items))
