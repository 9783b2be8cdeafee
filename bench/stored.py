"""Fills a service's database with orders long settled: `python -m bench.stored order|payment|inventory FIRST COUNT`

By COPY, through the service's own store, so that the rows are what the service would have written. The books stay in
balance: what is captured is taken from the accounts, what is reserved from the stock.
"""

import os
import sys
from collections.abc import Callable, Iterator
from typing import Final

from common.events import CustomerId, Item, Line, Milliseconds, OrderId, PlacedData, ProductId
from common.postgres import Conn, connect
from inventory import store as inventory_store
from inventory.decide import Movement, Reservation
from order import store as order_store
from order.saga import Order
from payment import store as payment_store
from payment.decide import Payment, Transfer

CUSTOMERS: Final = 100_000
PRODUCTS: Final = 1_000
PRICE: Final = 100
ROWS_A_TRANSACTION: Final = 5_000
BEGAN: Final = 1_760_000_000_000
"""Milliseconds since the epoch, in the past of any clock: an order a millisecond from then on."""
PARTITIONS: Final = 12
_SPREAD: Final = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiples of it look random and do not repeat."""


def at(number: int) -> Milliseconds:
    return Milliseconds(BEGAN + number)


def order_id(number: int) -> OrderId:
    """A UUIDv7 that no api draws."""
    time, tail = f"{BEGAN + number:012x}", f"{number * _SPREAD % 2**60:015x}"
    return OrderId(f"{time[:8]}-{time[8:]}-7000-8{tail[:3]}-{tail[3:]}")


def customer_id(number: int) -> CustomerId:
    return CustomerId(f"cust-{number % CUSTOMERS:06}")


def product_id(number: int) -> ProductId:
    return ProductId(f"sku-{number % PRODUCTS:04}")


def orders(connection: Conn, numbers: range) -> None:
    def row(number: int) -> order_store.Row:
        when, partition = at(number), number % PARTITIONS
        events = ("order.placed", "payment.completed", "inventory.reserved", "order.confirmed")
        return order_store.Row(
            Order(
                order_id=order_id(number),
                customer_id=customer_id(number),
                traceparent=f"00-{number:032x}-{number + 1:016x}-01",
                status="confirmed",
                payment="completed",
                inventory="reserved",
                placed_at=when,
                decided_at=when,
                settled_at=when,
            ),
            partition,
            stored=False,
            placed=PlacedData(
                order_id=order_id(number),
                customer_id=customer_id(number),
                items=(Item(product_id(number), 1, PRICE),),
                amount=PRICE,
                currency="EUR",
            ),
            timeline=[order_store.Entry(event, when, partition, number) for event in events],
        )

    order_store.insert_orders(connection, [row(number) for number in numbers])


def payments(connection: Conn, numbers: range) -> None:
    payment_store.insert_payments(
        connection,
        (
            Payment(
                order_id=order_id(number),
                customer_id=customer_id(number),
                state="completed",
                amount=PRICE,
                currency="EUR",
                decided_at=at(number),
            )
            for number in numbers
        ),
    )
    payment_store.insert_transfers(
        connection,
        (Transfer("capture", order_id(n), customer_id(n), PRICE, "EUR", at(n)) for n in numbers),
    )
    captured: dict[str, int] = {}
    for number in numbers:
        captured[customer_id(number)] = captured.get(customer_id(number), 0) + PRICE
    connection.execute(
        "UPDATE accounts SET balance = balance - taken.amount FROM unnest(%s::text[], %s::bigint[]) "
        "AS taken(customer_id, amount) WHERE accounts.customer_id = taken.customer_id",
        (list(captured), list(captured.values())),
    )


def reservations(connection: Conn, numbers: range) -> None:
    inventory_store.insert_reservations(
        connection,
        (
            Reservation(
                order_id=order_id(number),
                customer_id=customer_id(number),
                state="reserved",
                lines=(Line(product_id(number), 1),),
                decided_at=at(number),
            )
            for number in numbers
        ),
    )
    inventory_store.insert_movements(
        connection, (Movement("reserve", order_id(n), product_id(n), 1, at(n)) for n in numbers)
    )
    reserved: dict[str, int] = {}
    for number in numbers:
        reserved[product_id(number)] = reserved.get(product_id(number), 0) + 1
    connection.execute(
        "UPDATE products SET on_hand = on_hand - taken.pieces FROM unnest(%s::text[], %s::bigint[]) "
        "AS taken(product_id, pieces) WHERE products.product_id = taken.product_id",
        (list(reserved), list(reserved.values())),
    )


FILL: Final[dict[str, Callable[[Conn, range], None]]] = {
    "order": orders,
    "payment": payments,
    "inventory": reservations,
}


def chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, ROWS_A_TRANSACTION):
        yield range(start, min(start + ROWS_A_TRANSACTION, first + count))


def main(service: str, first: int, count: int) -> None:
    with connect(os.environ[f"{service.upper()}_DATABASE_URL"], "bench-stored") as connection:
        for numbers in chunks(first, count):
            with connection.transaction():
                FILL[service](connection, numbers)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
