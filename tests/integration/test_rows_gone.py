"""Rows that the rules need are deleted by hand: that customer's events are parked, everybody else is served, and after
the steps of OPERATIONS all agrees again."""

import re

from dev.settings import ROOT
from tests.stack import Stack
from tests.waiting import eventually

OPERATIONS = (ROOT / "docs/OPERATIONS.md").read_text()


def parked(stack: Stack, service: str, customer_id: str) -> list[str]:
    query = "SELECT error FROM parked_events WHERE key = %s AND root AND state <> 'done'"
    return [error for (error,) in stack.query(service, query, (customer_id.encode(),))]


def test_a_deleted_account_and_a_deleted_product_stop_nobody_else(stack: Stack) -> None:
    stack.product("gone", price=300, pieces=10)
    stack.product("kept", price=100, pieces=10)
    for product_id in ("gone", "kept"):
        stack.await_orderable(product_id)
    for customer_id in ("gone-account", "gone-product", "kept"):
        stack.account(customer_id, 10_000)
    for_account = stack.place("gone-account", ("kept", 1))
    for_product = stack.place("gone-product", ("gone", 4))
    for order_id in (for_account, for_product):
        assert stack.await_settled(order_id)["status"] == "confirmed"
    with stack.postgres.connect("payment") as owner:
        owner.execute("DELETE FROM accounts WHERE customer_id = 'gone-account'")
    with stack.postgres.connect("inventory") as owner:
        owner.execute("DELETE FROM products WHERE product_id = 'gone'")

    for order_id in (for_account, for_product):
        stack.http.post(stack.url("order-api", f"/orders/{order_id}/cancel")).raise_for_status()
    [said] = eventually(lambda: parked(stack, "payment", "gone-account"), "the refund is parked")
    assert f"100 EUR of order {for_account} cannot be refunded: the row of account 'gone-account' is gone" in said
    [said] = eventually(lambda: parked(stack, "inventory", "gone-product"), "the release is parked")
    assert f"4 pieces of product 'gone', reserved for order {for_product}, cannot come back" in said
    assert stack.await_settled(stack.place("kept", ("kept", 1)))["status"] == "confirmed"

    [statement] = re.findall(r"(INSERT INTO accounts .*?)\"", OPERATIONS, re.DOTALL)
    with stack.postgres.connect("payment") as owner:
        owner.execute(statement.replace("cust-000200", "gone-account"))
    printed = stack.run_tool("ops.replay", "inventory", "--why", "a row was deleted")
    assert "product gone: version 1, 300 EUR; the database had no row" in printed
    for customer_id in ("gone-account", "gone-product"):
        stack.run_tool("ops.dead_letters", "redrive", "--customer", customer_id, "--why", "the row is back")
    for order_id in (for_account, for_product):
        assert stack.await_settled(order_id)["status"] == "cancelled"
    assert (stack.balance("gone-account"), stack.on_hand("gone")) == (10_000, 10)
    stack.await_ready()
