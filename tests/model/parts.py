"""What each service keeps and how it decides: the real rules, over tables held in tuples.

There is no clock in the model: every record is processed at time 0. The rules do not depend on time, so nothing is
lost, and histories that differ only in time lead to one state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from common.events import (
    INVENTORY,
    ORDERS,
    PAYMENTS,
    AnyOrderEvent,
    CustomerId,
    DeadlineData,
    Event,
    Item,
    Milliseconds,
    OrderCancelRequested,
    OrderDeadlinePassed,
    OrderDiscarded,
    OrderId,
    OrderPlaced,
    OrderRef,
    Outcome,
    OutcomeData,
    PaymentCompleted,
    PlacedData,
    ProductId,
    StockReserved,
    make,
    type_of,
)
from inventory import consumer as inventory_consumer
from inventory import decide as inventory_rules
from order.saga import decide as saga
from order.saga.decide import Order, outcome_of
from payment import consumer as payment_consumer
from payment import decide as payment_rules
from tests.model.scenarios import PRICE, Role, Scenario

AT: Final = Milliseconds(0)
PRODUCT: Final = ProductId("tea")
CURRENCY: Final = "EUR"


@dataclass(frozen=True, slots=True)
class Rules:
    """The functions under test."""

    advance: Callable[[Order | None, AnyOrderEvent, Milliseconds], tuple[Order | None, list[Outcome]]] = saga.advance
    decide_payment: Callable[..., payment_rules.Decisions] = payment_rules.decide
    decide_stock: Callable[..., inventory_rules.Decisions] = inventory_rules.decide


class Broken(Exception):
    """A statement that must always hold does not."""


def order_name(number: int) -> str:
    return "ABCDEFGH"[number]


def order_id(number: int) -> OrderId:
    return OrderId(f"01997c00-0000-7000-8000-{number:012x}")


def placed(scenario: Scenario, number: int) -> OrderPlaced:
    order = scenario.orders[number]
    data = PlacedData(
        order_id=order_id(number),
        customer_id=customer_id(scenario, number),
        items=(Item(PRODUCT, order.pieces, PRICE),),
        amount=order.pieces * PRICE,
        currency=CURRENCY,
    )
    return make(OrderPlaced, data, at=AT, traceparent="")


def cancel_requested(scenario: Scenario, number: int) -> OrderCancelRequested:
    data = OutcomeData(order_id=order_id(number), customer_id=customer_id(scenario, number), reason="customer")
    return make(OrderCancelRequested, data, at=AT, traceparent="")


def deadline_passed(scenario: Scenario, number: int) -> OrderDeadlinePassed:
    """Its deadline of 0 ms has passed by the broker's clock as well."""
    customer = customer_id(scenario, number)
    data = DeadlineData(order_id=order_id(number), customer_id=customer, reason="deadline", deadline_ms=0)
    return make(OrderDeadlinePassed, data, at=AT, traceparent="")


def discarded(event: OrderPlaced) -> OrderDiscarded:
    """The event that replaces an order that the operator has discarded."""
    data = OrderRef(order_id=event.data.order_id, customer_id=event.data.customer_id)
    return make(OrderDiscarded, data, at=AT, traceparent="")


def customer_id(scenario: Scenario, number: int) -> CustomerId:
    order = scenario.orders[number]
    return CustomerId(f"cust-{order.partition}-{order.customer}")


def name_of(event: Event) -> str:
    """For a trace: `order.placed A`."""
    return f"{type_of(event)} {order_name(int(event.subject[-12:], 16))}"


class Decided(NamedTuple):
    """What a part makes of records: its tables afterwards, the pieces on hand, what to publish, and what it did."""

    tables: Any
    on_hand: int
    results: tuple[Event, ...]
    did: tuple[str, ...]


class Part(Protocol):
    """A service without its consumer. `numbers` are the orders of its partition."""

    @property
    def role(self) -> Role: ...

    @property
    def topics(self) -> tuple[str, ...]: ...

    def empty(self) -> Any: ...

    def concerns(self, event: Event) -> bool:
        """Whether the service does anything with such a record. Other records are left out of its queue."""
        ...

    def decide(self, tables: Any, on_hand: int, fresh: Sequence[Event], repeats: Sequence[Event]) -> Decided: ...

    def has(self, tables: Any, number: int) -> bool:
        """Whether there is a decision (for the saga: a row of a placed order)."""
        ...

    def wrong(self, tables: Any) -> str | None:
        """Which statement the tables break by themselves."""
        ...

    def view(self, tables: Any) -> tuple[Any, ...]:
        """For each order in `numbers`, what the other services' tables are compared with."""
        ...


# The saga.


class SagaTables(NamedTuple):
    rows: tuple[Order | None, ...]
    published: tuple[frozenset[str], ...]
    """For each order, the outcomes ever published or stored for publishing."""


@dataclass(frozen=True)
class SagaPart:
    scenario: Scenario
    rules: Rules
    numbers: tuple[int, ...]
    answers_everything: bool = False
    answers_no_repeats: bool = False

    role: Role = "saga"
    topics: tuple[str, ...] = (ORDERS, PAYMENTS, INVENTORY)

    def empty(self) -> SagaTables:
        return SagaTables((None,) * len(self.numbers), (frozenset(),) * len(self.numbers))

    def concerns(self, event: Event) -> bool:
        return True

    def decide(self, tables: SagaTables, on_hand: int, fresh: Sequence[Event], repeats: Sequence[Event]) -> Decided:
        rows = dict(zip(map(order_id, self.numbers), tables.rows, strict=True))
        outcomes: dict[str, Event] = {}
        did: list[str] = []
        for event in fresh:
            before = rows[OrderId(event.subject)]
            after, decided = self.rules.advance(before, event, AT)  # type: ignore[arg-type]
            rows[OrderId(event.subject)] = after
            self._check_moved(before, after)
            if after is not None and (before is None or before.status != after.status):
                did.append(f"order {_name(after.order_id)} is {after.status}")
            outcomes.update((outcome.id, outcome) for outcome in decided)
            if self.answers_everything and after is not None:
                outcomes.update((outcome.id, outcome) for outcome in outcome_of(after))
        for event in () if self.answers_no_repeats else repeats:
            row = rows[OrderId(event.subject)]
            if row is not None:
                outcomes.update((outcome.id, outcome) for outcome in outcome_of(row))
        return self._decided(rows, tables, on_hand, outcomes.values(), did)

    def _decided(
        self,
        rows: Mapping[OrderId, Order | None],
        tables: SagaTables,
        on_hand: int,
        outcomes: Iterable[Event],
        did: Sequence[str],
    ) -> Decided:
        results = tuple(outcomes)
        published = {
            order_id(number): published for number, published in zip(self.numbers, tables.published, strict=True)
        }
        for outcome in results:
            published[OrderId(outcome.subject)] |= {type_of(outcome)}
        return Decided(SagaTables(tuple(rows.values()), tuple(published.values())), on_hand, results, tuple(did))

    def _check_moved(self, before: Order | None, after: Order | None) -> None:
        if before is None or after is before:
            return
        if after is None:
            raise Broken(f"1: order {_name(before.order_id)} is forgotten")
        moved = before.status != after.status
        if moved and not self.scenario.restored and after.status not in _FORWARD.get(before.status, ()):
            raise Broken(f"5: order {_name(before.order_id)} goes from {before.status} to {after.status}")

    def has(self, tables: SagaTables, number: int) -> bool:
        row = tables.rows[self.numbers.index(number)]
        return row is not None and row.status != "awaiting_placed"

    def wrong(self, tables: SagaTables) -> str | None:
        if self.scenario.restored:
            return None  # a replay may decide otherwise than before; the statements are judged at its end
        for number, published in zip(self.numbers, tables.published, strict=True):
            if "order.rejected" in published and len(published) > 1:
                return f"5: order {order_name(number)} is decided twice: {', '.join(sorted(published))}"
        return None

    def view(self, tables: SagaTables) -> tuple[Any, ...]:
        return tuple(row and (row.status, row.settled_at is not None) for row in tables.rows)


_FORWARD: Final[Mapping[str, tuple[str, ...]]] = {
    "awaiting_placed": ("pending", "confirmed", "rejected", "cancelled"),
    "pending": ("confirmed", "rejected", "cancelled"),
    "confirmed": ("cancelled",),
}


# Payment.


class Money(NamedTuple):
    """The ledger's entries about one order: how many, and how much."""

    captures: int = 0
    captured: int = 0
    refunds: int = 0
    refunded: int = 0


class PaymentTables(NamedTuple):
    rows: tuple[payment_rules.Payment | None, ...]
    balances: tuple[int, ...]
    ledger: tuple[Money, ...]


@dataclass(frozen=True)
class PaymentPart:
    scenario: Scenario
    rules: Rules
    numbers: tuple[int, ...]

    role: Role = "payment"
    topics: tuple[str, ...] = (ORDERS,)

    def _customers(self) -> list[CustomerId]:
        return sorted({customer_id(self.scenario, number) for number in self.numbers})

    def empty(self) -> PaymentTables:
        count = len(self.numbers)
        return PaymentTables((None,) * count, (self.scenario.balance,) * len(self._customers()), (Money(),) * count)

    def concerns(self, event: Event) -> bool:
        return type(event) in payment_consumer.RELEVANT

    def decide(self, tables: PaymentTables, on_hand: int, fresh: Sequence[Event], repeats: Sequence[Event]) -> Decided:
        customers = self._customers()
        stored = {row.order_id: row for row in tables.rows if row is not None}
        accounts = {
            customer: payment_rules.Account(balance, CURRENCY)
            for customer, balance in zip(customers, tables.balances, strict=True)
        }
        changed = self.rules.decide_payment(accounts, stored, [(event, AT) for event in fresh])
        for order, payment in changed.payments.items():
            before = stored.get(order)
            if (before and before.state, payment.state) not in _PAYMENT_MOVES:
                raise Broken(f"5: payment {_name(order)} goes from {before and before.state} to {payment.state}")
        ledger = {order_id(number): money for number, money in zip(self.numbers, tables.ledger, strict=True)}
        for transfer in changed.transfers:
            money = ledger[transfer.order_id]
            if transfer.kind == "capture":
                money = money._replace(captures=money.captures + 1, captured=money.captured + transfer.amount)
            else:
                money = money._replace(refunds=money.refunds + 1, refunded=money.refunded + transfer.amount)
            ledger[transfer.order_id] = money
        rows = stored | changed.payments
        balances = tuple(changed.balances.get(c, accounts[c].balance) for c in customers)
        after = PaymentTables(tuple(rows.get(o) for o in ledger), balances, tuple(ledger.values()))
        return Decided(
            after,
            on_hand,
            tuple(
                payment_consumer.answer(rows[order], "")
                for order in (OrderId(event.subject) for event in [*repeats, *fresh])
                if order in rows
            ),
            tuple(f"payment {_name(o)} is {p.state}" for o, p in changed.payments.items()),
        )

    def has(self, tables: PaymentTables, number: int) -> bool:
        return tables.rows[self.numbers.index(number)] is not None

    def wrong(self, tables: PaymentTables) -> str | None:
        for number, row, money in zip(self.numbers, tables.rows, tables.ledger, strict=True):
            if money.captures > 1 or money.refunds > money.captures:
                return f"5: order {order_name(number)} is captured {money.captures}, refunded {money.refunds} times"
            state = row.state if row else None
            if (state in ("completed", "refunded"), state == "refunded") != (money.captures > 0, money.refunds > 0):
                return f"2: payment {order_name(number)} is {state}, its ledger says {money}"
            if money.captures and money.captured != self.scenario.orders[number].pieces * PRICE:
                return f"2: order {order_name(number)}: another amount is captured: {money.captured}"
            if money.refunds and money.captured != money.refunded:
                return f"2: order {order_name(number)}: {money.captured} captured, {money.refunded} refunded"
        for customer, balance in zip(self._customers(), tables.balances, strict=True):
            entered = self.scenario.balance + sum(
                money.refunded - money.captured
                for number, money in zip(self.numbers, tables.ledger, strict=True)
                if customer_id(self.scenario, number) == customer
            )
            if balance != entered or balance < 0:
                return f"2: the balance of {customer} is {balance}, its ledger says {entered}"
        return None

    def view(self, tables: PaymentTables) -> tuple[Any, ...]:
        return tuple(money.captured - money.refunded for money in tables.ledger)


_PAYMENT_MOVES: Final = {(None, "completed"), (None, "declined"), (None, "void"), ("completed", "refunded")} | {
    (None, "refunded")  # placed and revoked in one batch
}


# Inventory.


class Pieces(NamedTuple):
    """The movements of one order: how many, and how many pieces."""

    reserves: int = 0
    reserved: int = 0
    releases: int = 0
    released: int = 0


class StockTables(NamedTuple):
    """The stock on hand is not here: all partitions share it."""

    rows: tuple[inventory_rules.Reservation | None, ...]
    movements: tuple[Pieces, ...]


@dataclass(frozen=True)
class StockPart:
    scenario: Scenario
    rules: Rules
    numbers: tuple[int, ...]

    role: Role = "inventory"
    topics: tuple[str, ...] = (ORDERS,)

    def empty(self) -> StockTables:
        return StockTables((None,) * len(self.numbers), (Pieces(),) * len(self.numbers))

    def concerns(self, event: Event) -> bool:
        return type(event) in inventory_consumer.RELEVANT

    def decide(self, tables: StockTables, on_hand: int, fresh: Sequence[Event], repeats: Sequence[Event]) -> Decided:
        stored = {row.order_id: row for row in tables.rows if row is not None}
        products = {PRODUCT: inventory_rules.Product(on_hand, active=True)}
        changed = self.rules.decide_stock(products, stored, [(event, AT) for event in fresh])
        for order, reservation in changed.reservations.items():
            before = stored.get(order)
            if (before and before.state, reservation.state) not in _STOCK_MOVES:
                raise Broken(
                    f"5: reservation {_name(order)} goes from {before and before.state} to {reservation.state}"
                )
        movements = {order_id(number): pieces for number, pieces in zip(self.numbers, tables.movements, strict=True)}
        for moved in changed.movements:
            pieces = movements[moved.order_id]
            if moved.kind == "reserve":
                pieces = pieces._replace(reserves=pieces.reserves + 1, reserved=pieces.reserved + moved.quantity)
            else:
                pieces = pieces._replace(releases=pieces.releases + 1, released=pieces.released + moved.quantity)
            movements[moved.order_id] = pieces
        rows = stored | changed.reservations
        after = StockTables(tuple(rows.get(o) for o in movements), tuple(movements.values()))
        return Decided(
            after,
            changed.on_hand.get(PRODUCT, on_hand),
            tuple(
                inventory_consumer.answer(rows[order], "")
                for order in (OrderId(event.subject) for event in [*repeats, *fresh])
                if order in rows
            ),
            tuple(f"stock for {_name(o)} is {r.state}" for o, r in changed.reservations.items()),
        )

    def has(self, tables: StockTables, number: int) -> bool:
        return tables.rows[self.numbers.index(number)] is not None

    def wrong(self, tables: StockTables) -> str | None:
        for number, row, pieces in zip(self.numbers, tables.rows, tables.movements, strict=True):
            if pieces.reserves > 1 or pieces.releases > pieces.reserves:
                return f"5: order {order_name(number)} is reserved {pieces.reserves}, released {pieces.releases} times"
            state = row.state if row else None
            if (state in ("reserved", "released"), state == "released") != (pieces.reserves > 0, pieces.releases > 0):
                return f"3: the reservation of {order_name(number)} is {state}, its movements say {pieces}"
            if pieces.reserves and pieces.reserved != self.scenario.orders[number].pieces:
                return f"3: order {order_name(number)}: another quantity is reserved: {pieces.reserved}"
            if pieces.releases and pieces.reserved != pieces.released:
                return f"3: order {order_name(number)}: {pieces.reserved} reserved, {pieces.released} released"
        return None

    def view(self, tables: StockTables) -> tuple[Any, ...]:
        return tuple(pieces.reserved - pieces.released for pieces in tables.movements)


_STOCK_MOVES: Final = {(None, "reserved"), (None, "rejected"), (None, "void"), ("reserved", "released")} | {
    (None, "released")  # placed and revoked in one batch
}


def is_good_result(event: Event) -> bool:
    return isinstance(event, PaymentCompleted | StockReserved)


def _name(order: OrderId) -> str:
    return order_name(int(order[-12:], 16))
