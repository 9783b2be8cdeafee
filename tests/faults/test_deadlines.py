"""An order does not wait for ever, and a saga that was away does not cancel what was decided while it was."""

import time
from collections.abc import Iterator

import pytest

from tests.audit import assert_consistent, await_rest
from tests.stack import Stack, eventually

DEADLINE_S = 3


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Iterator[Stack]:
    own_stack.variables["ORDER_SETTLE_DEADLINE_S"] = str(DEADLINE_S)
    own_stack.launch_all()
    own_stack.product("sku-a", price=100, pieces=1_000)
    own_stack.account("ann", 10_000)
    own_stack.await_orderable("sku-a")
    yield own_stack
    assert_consistent(own_stack)


def test_an_order_is_cancelled_when_payment_does_not_answer_and_late_money_is_refunded(shop: Stack) -> None:
    pieces, balance = shop.on_hand("sku-a"), shop.balance("ann")
    shop["payment-1"].kill()
    late = shop.place("ann", ("sku-a", 1))
    eventually(lambda: shop.order(late)["status"] == "cancelled", "the deadline cancels the order")
    order = shop.order(late)
    assert (order["reason"], order["settled"]) == ("deadline", False)
    eventually(lambda: shop.on_hand("sku-a") == pieces, "the stock is released")
    shop["payment-1"].launch()
    order = shop.await_settled(late)
    assert (order["status"], order["payment"], order["inventory"]) == ("cancelled", "refunded", "released")
    assert shop.balance("ann") == balance
    await_rest(shop, [late])


def test_a_saga_that_was_away_past_the_deadline_confirms_what_was_decided_meanwhile(shop: Stack) -> None:
    shop["order-saga-1"].kill()
    ids = [shop.place("ann", ("sku-a", 1)) for _ in range(20)]
    asked = "SELECT count(*) FROM {} WHERE order_id = ANY(%s::uuid[])"
    for service, table in (("payment", "payments"), ("inventory", "reservations")):
        eventually(lambda s=service, t=table: shop.query(s, asked.format(t), (ids,)) == [(20,)], "decided")  # type: ignore[misc]
    placed = time.monotonic()
    eventually(lambda: time.monotonic() - placed > 1.5 * DEADLINE_S, "the deadline has passed")
    shop["order-saga-1"].launch()
    assert [shop.await_settled(order_id)["status"] for order_id in ids] == ["confirmed"] * 20
