"""`python script.py DIRECTORY NUMBER PASSWORDS OUT`: places a fixed set of orders on the stack of the checkout in
PYTHONPATH, and writes what became of them to OUT.

It runs with the code of an earlier version: it imports nothing of this one, and of the other's `tests.stack` only what
every version since 771bd5c has. `tests.golden.record` starts it.
"""

import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Producer

import dev.settings

PATIENCE_S: Final = 120.0
PRICE: Final = 100
DEPOSIT: Final = 10_000
PIECES: Final = 50
TRACEPARENT: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ENDED: Final = {
    "confirmed": ("confirmed", None),
    "several lines": ("confirmed", None),
    "with a key": ("confirmed", None),
    "no money": ("rejected", "insufficient_funds"),
    "no account": ("rejected", "unknown_account"),
    "another currency": ("rejected", "currency_mismatch"),
    "no stock": ("rejected", "out_of_stock"),
    "inactive": ("rejected", "inactive"),
    "discarded": ("rejected", "discarded"),
    "cancelled": ("cancelled", "customer"),
    "too late": ("cancelled", "deadline"),
}
"""How each order of the script ends: status and reason."""


def wait(ask: Callable[[], Any], condition: str) -> Any:
    """The first true answer. Raises `AssertionError` after `PATIENCE_S`."""
    until = time.monotonic() + PATIENCE_S
    while not (answer := ask()):
        assert time.monotonic() < until, f"not within {PATIENCE_S:.0f} s: {condition}"
        time.sleep(0.05)
    return answer


class Script:
    """The orders of one version. All names begin with the version's number, so that a later one finds none of them."""

    def __init__(self, stack: Any, number: int) -> None:
        self.stack = stack
        self.prefix = f"v{number}"
        self.number = number
        self.orders: dict[str, str] = {}
        self.deposits: list[tuple[str, int, str]] = []
        self.products: list[str] = []

    def play(self) -> dict[str, Any]:
        """Place the orders, and say what became of them."""
        cup, gone = self.product("cup", PIECES), self.product("gone", 1)
        rich, poor, dollars = self.account("rich", DEPOSIT), self.account("poor", 1), self.account("dollars", 1, "USD")
        self.orderable(cup)
        self.orderable(gone)
        self.stack.product(cup, price=PRICE, pieces=PIECES)  # a restock of a product that is there
        self.place("confirmed", rich, (cup, 2), traceparent=TRACEPARENT)
        self.place("several lines", rich, (cup, 1), (gone, 1))
        self.place("with a key", rich, (cup, 1), **{"idempotency-key": f"{self.prefix}-key"})
        self.place("no money", poor, (cup, 1))
        self.place("no account", f"{self.prefix}-nobody", (cup, 1))
        self.place("another currency", dollars, (cup, 1))
        self.settle()
        self.place("no stock", rich, (gone, 1))
        self.place("cancelled", rich, (cup, 3))
        self.settle(cancelled="confirmed")
        url = self.stack.url("order-api", f"/orders/{self.orders['cancelled']}/cancel")
        self.stack.http.post(url).raise_for_status()
        self.settle()
        self.inactive(rich)
        self.discarded()
        self.too_late(rich, cup)
        self.settle()
        return {
            "orders": {name: self.order(order_id) for name, order_id in self.orders.items()},
            "deposits": self.deposits,
            "balances": {customer: self.stack.balance(customer) for customer, _, _ in self.deposits},
            "pieces": {product: self.stack.on_hand(product) for product in self.products},
            "discarded": f"{self.prefix}-typo",
        }

    def product(self, name: str, pieces: int) -> str:
        product_id = f"{self.prefix}-{name}"
        self.products.append(product_id)
        self.stack.product(product_id, price=PRICE, pieces=pieces)
        return product_id

    def account(self, name: str, amount: int, currency: str = "EUR") -> str:
        customer_id = f"{self.prefix}-{name}"
        self.deposits.append((customer_id, amount, currency))
        url = self.stack.url("payment", f"/accounts/{customer_id}/deposits")
        self.stack.http.post(url, json={"amount": amount, "currency": currency}).raise_for_status()
        return customer_id

    def orderable(self, product_id: str) -> None:
        """Wait until the api knows the product. The order that shows it is refused for want of an account, and may
        reserve a piece for a moment."""
        body = {"customer_id": f"{self.prefix}-nobody", "product_id": product_id, "quantity": 1}

        def accepted() -> str | None:
            answer = self.stack.post(body)
            return answer.json()["order_id"] if answer.status_code == 202 else None

        self.stack.await_settled(wait(accepted, f"{product_id} is orderable"))

    def place(self, name: str, customer_id: str, *lines: tuple[str, int], **headers: str) -> None:
        items = [{"product_id": product_id, "quantity": quantity} for product_id, quantity in lines]
        url, body = self.stack.url("order-api", "/orders"), {"customer_id": customer_id, "items": items}
        answer = self.stack.http.post(url, json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        self.orders[name] = answer.json()["order_id"]

    def inactive(self, customer_id: str) -> None:
        """An order of a product that is just being taken out of the catalogue: the api hears of it a moment after the
        database, and accepts it. Those that come earlier are confirmed."""
        product_id = self.product("inactive", PIECES)
        body = {"customer_id": customer_id, "product_id": product_id, "quantity": 1}

        def accepted() -> str | None:
            self.stack.product(product_id, price=PRICE)
            self.orderable(product_id)
            ids = []
            with ThreadPoolExecutor(1) as merchant:
                change = merchant.submit(self.stack.product, product_id, price=PRICE, active=False)
                while (answer := self.stack.post(body)).status_code == 202:
                    ids.append(answer.json()["order_id"])
                change.result()
            ended = {order_id: self.stack.await_settled(order_id)["reason"] for order_id in ids}
            return next((order_id for order_id, reason in ended.items() if reason == "inactive"), None)

        self.orders["inactive"] = wait(accepted, "an order of an inactive product is accepted")

    def discarded(self) -> None:
        """An order that a program has written wrongly into the log: it is parked everywhere, and discarded."""
        customer_id, order_id = f"{self.prefix}-typo", f"01997c5e-0000-7000-8000-{self.number:012d}"
        item = {"product_id": f"{self.prefix}-cup", "quantity": 1, "unit_price": PRICE}
        event = {
            "specversion": "1.0", "type": "order.placed", "id": f"{order_id}:order.placed:1", "source": "/by/hand",
            "subject": order_id, "time": "2026-11-28T00:00:00.000Z", "partitionkey": customer_id, "sequence": 1,
            "data": {
                "order_id": order_id, "customer_id": customer_id, "items": [item], "amount": PRICE, "currency": "euro",
            },
        }  # fmt: skip
        servers = self.stack.variables["KAFKA_BOOTSTRAP_SERVERS"]
        producer = Producer({"bootstrap.servers": servers, "partitioner": "murmur2_random"})
        producer.produce("orders", json.dumps(event).encode(), customer_id)
        producer.flush(30)
        query = 'SELECT topic, partition, "offset" FROM parked_events WHERE key = %s AND root'
        for service in ("payment", "inventory", "order"):
            ask = lambda s=service: self.stack.query(s, query, (customer_id.encode(),))  # noqa: E731
            [(topic, partition, offset)] = wait(ask, f"the order is parked in {service}")
            record = f"{topic}/{partition}@{offset}"
            self.stack.run_tool("ops.dead_letters", "discard", record, "--service", service, "--why", "typed by hand")
        of_customer = ("--service", "order", "--customer", customer_id, "--why", "the order was discarded")
        self.stack.run_tool("ops.dead_letters", "redrive", *of_customer)
        stored = "SELECT order_id FROM orders WHERE order_id = %s"
        wait(lambda: self.stack.query("order", stored, (order_id,)), "the discarded order is stored")
        self.orders["discarded"] = order_id

    def too_late(self, customer_id: str, product_id: str) -> None:
        """An order whose payment does not come in time: nothing pays while the deadline is a second."""
        for instance in ("payment-1", "order-saga-1"):
            self.stack[instance].stop()
        self.place("too late", customer_id, (product_id, 1))
        self.stack.launch("order-saga", 1, {"ORDER_SETTLE_DEADLINE_S": "1"})
        wait(lambda: self.order(self.orders["too late"])["status"] == "cancelled", "the order is cancelled")
        self.stack["payment-1"].launch()
        self.stack.await_ready()

    def settle(self, **other: str) -> None:
        """Wait until all orders so far are settled as `ENDED` says, or with another status."""
        for name, order_id in self.orders.items():
            wanted = (other[name], None) if name in other else ENDED[name]

            def ended(order_id: str = order_id, wanted: tuple[str, str | None] = wanted) -> bool:
                order = self.stack.await_settled(order_id)
                return (order["status"], order["reason"]) == wanted

            wait(ended, f"the order {name!r} ends {wanted}")

    def order(self, order_id: str) -> dict[str, Any]:
        order = self.stack.order(order_id)
        return {name: order[name] for name in ("order_id", "status", "reason", "payment", "inventory")}


def main(directory: str, number: str, passwords: str, out: str) -> None:
    """Run the version's stack on `directory`, play, and end it in order, so that the log is whole."""
    fixed = json.loads(passwords)
    dev.settings.new_passwords = lambda: fixed  # the cluster in `directory` was made with these
    from tests.stack import Stack

    stack = Stack(Path(directory))
    try:
        stack.start_infrastructure()
        stack.launch_all()
        said = Script(stack, int(number)).play()
        for instance in stack.instances.values():
            instance.stop()
        stack.kafka.stop()
        stack.postgres.stop()
        Path(out).write_text(json.dumps(said))
    except BaseException:
        print(stack.logs(), file=sys.stderr)
        raise
    finally:
        stack.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
