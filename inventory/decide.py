"""The rules of inventory: which orders get stock. No I/O, no clock.

`decide` takes the products and reservations that a batch touches, as locked, and its events in order. It is total: an
order may come twice, and its revocation before it, after it or alone.

    none ──▶ reserved ──▶ released        none ──▶ rejected        none ──▶ void (revoked before it was placed)
"""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct

from common.events import (
    Contradiction,
    CustomerId,
    Item,
    Line,
    Milliseconds,
    OrderCancelled,
    OrderDiscarded,
    OrderId,
    OrderPlaced,
    OrderRejected,
    ProductId,
    Reason,
    StockState,
    check_customer,
)

Revocation = OrderRejected | OrderCancelled
Relevant = OrderPlaced | OrderDiscarded | Revocation
"""The events that inventory answers. Others on the topic do not concern it."""


class Product(Struct, frozen=True, gc=False):
    """A product's stock. `on_hand` is in pieces and never below zero; an inactive product is not sold.

    Unless it is the `whole` stock, `on_hand` is what the locked bucket has (`inventory.buckets`).
    """

    on_hand: int
    active: bool
    whole: bool = True


class Reservation(Struct, frozen=True, kw_only=True, gc=False):
    """The one decision about an order's stock. `lines` is what was reserved, one line a product."""

    order_id: OrderId
    customer_id: CustomerId
    state: StockState
    reason: Reason | None = None
    lines: tuple[Line, ...] = ()
    decided_at: Milliseconds
    revoked_at: Milliseconds | None = None


class Movement(NamedTuple):
    """Pieces that left the stock for an order, or came back from it."""

    kind: Literal["reserve", "release"]
    order_id: OrderId
    product_id: ProductId
    quantity: int
    at: Milliseconds


class Decisions(NamedTuple):
    """The decisions of a batch. `reservations` holds every reservation touched, as it now stands.

    If it `is_short`, an order asked for more of a product than its bucket has: these are not the decisions, and the
    batch must be decided again with the whole stock.
    """

    reservations: dict[OrderId, Reservation]
    on_hand: dict[ProductId, int]
    movements: list[Movement]
    is_short: bool = False


def decide(
    products: Mapping[ProductId, Product],
    reservations: Mapping[OrderId, Reservation],
    events: Iterable[tuple[Relevant, Milliseconds]],
) -> Decisions:
    """Apply the events in order, each with its time in the log. Returns only what changed.

    Raises `Contradiction` for an event that names another customer than the reservation's, and for a release of
    pieces whose product is gone.
    """
    changed: dict[OrderId, Reservation] = {}
    on_hand: dict[ProductId, int] = {}
    movements: list[Movement] = []
    is_short = False
    for event, at in events:
        order_id = OrderId(event.data.order_id)
        before = changed.get(order_id) or reservations.get(order_id)
        if before is not None and not isinstance(event, OrderDiscarded):
            check_customer(order_id, before.customer_id, event.data.customer_id)
        match event:
            case OrderPlaced(data=data):
                if before is not None:
                    continue
                lines = per_product(data.items)
                reason = refusal(lines, products, on_hand)
                if reason == "out_of_stock" and not all(is_whole(line, products) for line in lines):
                    is_short = True
                changed[order_id] = Reservation(
                    order_id=order_id,
                    customer_id=CustomerId(data.customer_id),
                    state="rejected" if reason else "reserved",
                    reason=reason,
                    lines=() if reason else lines,
                    decided_at=at,
                )
                if reason is None:
                    for line in lines:
                        product_id = ProductId(line.product_id)
                        on_hand[product_id] = level(product_id, products, on_hand) - line.quantity
                        movements.append(Movement("reserve", order_id, product_id, line.quantity, at))
            case OrderDiscarded():
                if before is None:
                    changed[order_id] = Reservation(
                        order_id=order_id,
                        customer_id=CustomerId(event.data.customer_id),
                        state="rejected",
                        reason="discarded",
                        decided_at=at,
                    )
            case OrderRejected() | OrderCancelled():
                after = revoke(before, event, at)
                if after is before:
                    continue
                changed[order_id] = after
                if after.state == "released":
                    _check_releasable(after, products)
                    # Exactly what was reserved comes back, even if the product is no longer sold.
                    for line in after.lines:
                        product_id = ProductId(line.product_id)
                        on_hand[product_id] = level(product_id, products, on_hand) + line.quantity
                        movements.append(Movement("release", order_id, product_id, line.quantity, at))
    return Decisions(changed, on_hand, movements, is_short)


def per_product(items: Iterable[Item]) -> tuple[Line, ...]:
    """One line for each product: two lines of an order for the same product count together."""
    quantities: dict[str, int] = {}
    for item in items:
        quantities[item.product_id] = quantities.get(item.product_id, 0) + item.quantity
    return tuple(Line(product_id, quantity) for product_id, quantity in quantities.items())


def refusal(
    lines: Iterable[Line], products: Mapping[ProductId, Product], on_hand: Mapping[ProductId, int]
) -> Reason | None:
    """Why nothing is reserved, if so: an order gets all of its lines or none. If there are two reasons, it is the one
    that a restock does not repair."""
    reason: Reason | None = None
    for line in lines:
        product_id = ProductId(line.product_id)
        product = products.get(product_id)
        if product is not None and not product.active:
            return "inactive"
        if product is None or level(product_id, products, on_hand) < line.quantity:
            reason = "out_of_stock"
    return reason


def is_whole(line: Line, products: Mapping[ProductId, Product]) -> bool:
    """Whether there are no more pieces of the line's product than are known here."""
    product = products.get(ProductId(line.product_id))
    return product is None or product.whole


def level(product_id: ProductId, products: Mapping[ProductId, Product], on_hand: Mapping[ProductId, int]) -> int:
    """The pieces on hand after the events of the batch so far."""
    return on_hand[product_id] if product_id in on_hand else products[product_id].on_hand


def _check_releasable(reservation: Reservation, products: Mapping[ProductId, Product]) -> None:
    """Raises `Contradiction` when someone has deleted the row of a product that was reserved."""
    for line in reservation.lines:
        if line.product_id not in products:
            raise Contradiction(
                f"{line.quantity} pieces of product {line.product_id!r}, reserved for order {reservation.order_id}, "
                "cannot come back: the product's row is gone; see docs/OPERATIONS.md, 'Rows that are gone'"
            )


def revoke(reservation: Reservation | None, event: Revocation, at: Milliseconds) -> Reservation:
    """The reservation of an order that is rejected or cancelled. If none was decided, it is void and none will be."""
    if reservation is None:
        return Reservation(
            order_id=OrderId(event.data.order_id),
            customer_id=CustomerId(event.data.customer_id),
            state="void",
            reason=event.data.reason,
            decided_at=at,
        )
    if reservation.state == "reserved":
        return Reservation(
            order_id=reservation.order_id,
            customer_id=reservation.customer_id,
            state="released",
            reason=event.data.reason,
            lines=reservation.lines,
            decided_at=reservation.decided_at,
            revoked_at=at,
        )
    return reservation
