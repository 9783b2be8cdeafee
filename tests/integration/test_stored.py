"""The orders that `just bench --full` stores pass for orders of last year, whose part of the log is trimmed."""

from common.events import ORDERS
from common.kafka.broker import Partition, log_bounds
from dev.settings import DATABASES
from tests.stack import Stack
from tests.waiting import eventually

ORDERS_STORED = 12_000
CUSTOMERS = 100
"""Enough for a record in each partition."""


def test_orders_from_before_the_log_begins_are_proved(own_stack: Stack) -> None:
    stack = own_stack
    for service in ("payment", "inventory"):
        stack.run_tool(service, "load-demo")
    stack.launch_all()
    stack.await_orderable("sku-0001")
    ids = [stack.place(f"cust-{number:06d}", ("sku-0001", 1)) for number in range(CUSTOMERS)]
    for order_id in ids:
        stack.await_settled(order_id)

    for database in DATABASES:
        stack.run_tool("bench.stack.stored", database, "0", str(ORDERS_STORED))
    partitions = [Partition(ORDERS, number) for number in range(int(stack.variables["TOPIC_PARTITIONS"]))]

    def trimmed() -> bool:
        stack.run_tool("ops.topics", "trim")
        return all(first > 0 for first, _ in log_bounds(stack.admin, partitions).values())

    eventually(trimmed, "the log begins after the stored orders")
    assert '"act":"trim","target":"orders, ' in stack.run_tool("ops.audit", "--json", "--act", "trim")
    stack.await_settled(stack.place("cust-000001", ("sku-0001", 1)))
    stack.run_tool("ops.verify")
