"""What is known of an order, and the lines in which it is put aside until it is judged.

A line is `order id|tag|fields`, whichever source it comes from, so that one pass puts each into a bucket by its order
id and another reads a bucket and has all that is known of its orders.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from common.positions import Partition

ID_LENGTH: Final = 36
SEPARATOR: Final = "|"

# Tags: where a line comes from.
RECORD: Final = "L"
ORDER: Final = "O"
PAYMENT: Final = "P"
ENTRY: Final = "G"
RESERVATION: Final = "R"
MOVEMENT: Final = "M"
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
    """A record of the log. `content` is what two events of one id must agree in: of `order.placed` customer, amount,
    currency and items, of payment's customer, amount and currency, of inventory's customer and lines. The outcomes and
    requests have none: their reason may differ after a database was restored."""

    kind: str
    partition: int
    offset: int
    content: str

    @property
    def place(self) -> Partition:
        return Partition(TOPIC_OF[self.kind], self.partition)


class OrderRow(NamedTuple):
    customer_id: str
    partition: int
    status: str
    payment: str
    inventory: str
    settled: str
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
    accepted: bool = False
    broken: list[str] = []
    """Lines that do not have the form of their source."""


def read(lines: Iterable[str]) -> dict[str, Evidence]:
    """Put lines together by order."""
    found: defaultdict[str, Evidence] = defaultdict(Evidence)
    for line in lines:
        evidence = found[line[:ID_LENGTH]]
        tag = line[37:38]
        rest = line[39:]
        try:
            if tag == RECORD:
                kind, partition, offset, content = rest.split(SEPARATOR, 3)
                evidence.records.append(Record(kind, int(partition), int(offset), content))
            elif tag == ORDER:
                customer, number, *fields = rest.split(SEPARATOR, 8)
                evidence.orders.append(OrderRow(customer, int(number), *fields))
            elif tag == PAYMENT:
                evidence.payments.append(PaymentRow(*rest.split(SEPARATOR)))
            elif tag == ENTRY:
                evidence.entries.append(EntryRow(*rest.split(SEPARATOR)))
            elif tag == RESERVATION:
                evidence.reservations.append(ReservationRow(*rest.split(SEPARATOR, 2)))
            elif tag == MOVEMENT:
                evidence.movements.append(MovementRow(*rest.split(SEPARATOR)))
            else:
                evidence.accepted = True
        except (ValueError, TypeError):
            evidence.broken.append(line)
    return found


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


_stored: Final = msgspec.json.Decoder(list[_StoredItem])


@lru_cache(65_536)
def stored_priced(items: str) -> str:
    """The JSON of an order row's items, as `written`. Raises `msgspec.DecodeError`."""
    return written(Priced(i.product_id, i.quantity, i.unit_price) for i in _stored.decode(items))


@lru_cache(65_536)
def stored_lines(items: str) -> str:
    """The JSON of a reservation's items, as `lines`. Raises `msgspec.DecodeError`."""
    return lines((i.product_id, i.quantity) for i in _stored.decode(items))
