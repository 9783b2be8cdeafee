"""What is known of one order, and the lines in which it is kept until the order is judged.

Every source writes lines of the same form, `order id|tag|fields`. So one pass puts each line into a bucket by its order
id, and another reads a bucket and has all that is known of its orders. The records of an order that took a regular
course are one line, see `Whole`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from common.events import INVENTORY as INVENTORY_TOPIC
from common.events import PAYMENTS as PAYMENTS_TOPIC
from common.kafka.broker import Partition
from ops.verify.evidence.kinds import MOVING, PLACED, TOPIC_OF

ID_LENGTH: Final = 36
SEPARATOR: Final = "|"


class Tag:
    """Where a line comes from."""

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


UNREADABLE: Final = "!"
"""The content of a record that names its order and is otherwise not an event. Its readers must have parked it."""


class Record(NamedTuple):
    """A record of the log. `at` is the broker's time in milliseconds, 0 where it is not needed. `content` is what two
    events with the same id must agree in, and begins with the customer. For `order.placed` it is customer, amount,
    currency and items; for payment's events customer, amount and currency; for inventory's customer and lines. For
    outcomes and requests it is the customer alone: their reason may differ after a database was restored."""

    kind: str
    number: int
    offset: int
    at: int
    content: str

    @property
    def partition(self) -> Partition:
        return Partition(TOPIC_OF[self.kind], self.number)


class Whole(NamedTuple):
    """All that the log says of an order, in one line: it was placed once and came to an end, every reader has passed
    all of it, and every event agrees with the order. `kinds` and `offsets` are those of `orders`, then `payments`, then
    `inventory`; `items` is JSON, as it was placed; `digest` is that of the event, where it is needed."""

    kinds: str
    number: str
    offsets: str
    digest: str
    customer_id: str
    amount: str
    currency: str
    items: str

    def records(self) -> Iterator[Record]:
        """The records one by one. Raises `ValueError`, and `msgspec.DecodeError` for items that are none."""
        placed = ordered(self.items)
        paid = f"{self.customer_id}|{self.amount}|{self.currency}"
        for kind, offset in zip(self.kinds, self.offsets.split(","), strict=True):
            content = self.customer_id
            if kind == PLACED:
                content = f"{paid}|{placed.items}"
            elif TOPIC_OF[kind] == PAYMENTS_TOPIC:
                content = paid
            elif TOPIC_OF[kind] == INVENTORY_TOPIC:
                content = f"{self.customer_id}|{placed.lines if kind in MOVING else ''}"
            yield Record(kind, int(self.number), int(offset), 0, content)


DISCARDED: Final = "discarded"
"""In a line: the status of an order that was rejected because it was discarded."""


class OrderRow(NamedTuple):
    """`placed_at` and `decided_at` are in milliseconds, and given only while the order is not settled."""

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
    discarded: str = ""


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
    """The digest of the event that is stored under each of its idempotency keys."""
    digests: list[str] = []
    """The digest of each of its `order.placed`, where that is needed."""
    accepted: bool = False
    """Whether a client says that it was acknowledged."""
    claims: bool = False
    """Whether its row says that it was placed by a record that was trimmed."""
    broken: list[str] = []
    """Lines that do not have the form of their source."""


def gather(lines: Iterable[str]) -> dict[str, str]:
    """Put lines together by order: `tag|fields` for each, with line breaks between them."""
    texts: dict[str, str] = {}
    text_of = texts.get
    for line in lines:
        order_id = line[:ID_LENGTH]
        before = text_of(order_id)
        texts[order_id] = line[37:] if before is None else f"{before}\n{line[37:]}"
    return texts


def read(text: str) -> Evidence:
    """Take apart what `gather` has put together."""
    evidence = Evidence()
    for line in text.split("\n"):
        try:
            _read_line(evidence, line[:1], line[2:])
        except (ValueError, TypeError, msgspec.DecodeError):
            evidence.broken.append(line)
    return evidence


_ROWS: Final[dict[str, tuple[str, Callable[..., Any], int]]] = {
    Tag.PAYMENT: ("payments", PaymentRow, -1),
    Tag.ENTRY: ("entries", EntryRow, -1),
    Tag.RESERVATION: ("reservations", ReservationRow, 2),
    Tag.MOVEMENT: ("movements", MovementRow, -1),
}
"""Where the rows of a tag go, their type, and after how many separators the last field begins."""


def _read_line(evidence: Evidence, tag: str, fields: str) -> None:
    if tag in _ROWS:
        name, row, separators = _ROWS[tag]
        getattr(evidence, name).append(row(*fields.split(SEPARATOR, separators)))
        return
    match tag:
        case Tag.ORDER:
            customer, number, status, *rest = fields.split(SEPARATOR, 10)
            order = OrderRow(customer, int(number), status, *rest)
            evidence.orders.append(order._replace(status="rejected", discarded="t") if status == DISCARDED else order)
        case Tag.RECORD:
            kind, number, offset, at, content = fields.split(SEPARATOR, 4)
            event_digest, content = content.split(SEPARATOR, 1) if kind == PLACED else ("", content)
            evidence.records.append(Record(kind, int(number), int(offset), int(at), content))
            evidence.digests += [event_digest] if event_digest else []
        case Tag.WHOLE:
            whole = Whole(*fields.split(SEPARATOR, 7))
            evidence.records += whole.records()
            evidence.digests += [whole.digest] if whole.digest else []
        case Tag.REQUEST:
            evidence.requests.append(fields)
        case Tag.CLAIM:
            evidence.claims = True
        case Tag.ACCEPTED:
            evidence.accepted = True
        case _:
            raise ValueError(tag)


def digest(value: bytes) -> str:
    """Tells two events apart; PostgreSQL's `md5`. No secret depends on it."""
    return hashlib.md5(value, usedforsecurity=False).hexdigest()


class Line(Struct):
    """Pieces of a product, as inventory's events and a reservation's row have them."""

    product_id: str
    quantity: int


_Number = Annotated[int, Meta(ge=-(2**40), le=2**40)]
"""Far beyond what an order may have, and so small that a sum of them can be encoded."""


class _Item(Struct):
    product_id: str
    quantity: _Number
    unit_price: _Number


class Ordered(NamedTuple):
    """What follows, to the letter, from the items of an order."""

    items: str
    """The items themselves as JSON, however they were written."""
    amount: str
    lines: str
    """Pieces by product, as `lines` writes them."""
    published: bytes
    """What inventory's events say of it, as JSON."""
    reserved: str
    """The same as a reservation's row holds it, and its movements, each after a line break."""
    released: str
    """The same for a reservation that was released."""


_decode_lines: Final = msgspec.json.Decoder(list[Line]).decode
_decode_items: Final = msgspec.json.Decoder(list[_Item]).decode
_encode: Final = msgspec.json.Encoder().encode


def lines(quantities: Iterable[tuple[str, int]]) -> str:
    """`product:quantity`, by product."""
    return ",".join([f"{p}:{q}" for p, q in sorted(quantities)])


@lru_cache(65_536)
def reserved_lines(items: str) -> str:
    """The lines of the JSON of a reservation or of inventory's events. Raises `msgspec.DecodeError`."""
    return lines((line.product_id, line.quantity) for line in _decode_lines(items))


@lru_cache(65_536)
def ordered(items: str) -> Ordered:
    """All that follows from the items in the JSON of an order's event or row. Raises `msgspec.DecodeError`."""
    placed = _decode_items(items)
    quantities: dict[str, int] = {}
    for item in placed:
        quantities[item.product_id] = quantities.get(item.product_id, 0) + item.quantity
    published = _encode([Line(product_id, quantity) for product_id, quantity in quantities.items()])
    moved = [f"{product_id}|{quantity}" for product_id, quantity in quantities.items()]
    reserved = published.decode() + "".join(f"\nM|reserve|{line}" for line in moved)
    released = reserved + "".join(f"\nM|release|{line}" for line in moved)
    amount = str(sum(item.quantity * item.unit_price for item in placed))
    return Ordered(_encode(placed).decode(), amount, lines(quantities.items()), published, reserved, released)
