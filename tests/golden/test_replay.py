"""A log that earlier versions wrote, one after the other, is replayed into empty databases by today's code."""

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from common.events import ORDERS, READS
from common.kafka.broker import Partition
from common.kafka.clients import client_config
from common.postgres import columns
from dev.settings import SERVICES
from ops.log import Log
from ops.topics import set_committed
from tests.audit import assert_consistent, await_rest
from tests.documented import check_log
from tests.golden.archive import FIRST_SEGMENT, Golden, load
from tests.golden.script import ENDED, Script
from tests.progress import position
from tests.stack import Stack
from tests.truncation import delete_records, move
from tests.waiting import eventually

CONSUMERS = {"payment": "payment-1", "inventory": "inventory-1", "order": "order-saga-1"}
AGAIN = ("--why", "the databases are gone")


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load()


@pytest.fixture
def shop(fresh_stack: Stack, golden: Golden) -> Stack:
    """Empty databases, the old log, and groups that have read all of it."""
    log = Log(fresh_stack.brokers, "test")
    ends = {Partition(*partition): end for partition, end in ends_of(golden).items()}
    for group, topics in READS.items():
        set_committed(log, group, [TopicPartition(*p, end) for p, end in ends.items() if p.topic in topics])
    install(fresh_stack, golden)
    for service in SERVICES:
        fresh_stack.launch(service.name)
    return fresh_stack


def ends_of(golden: Golden) -> dict[tuple[str, int], int]:
    """Where each partition of the old log ends."""
    return {(record.topic, record.partition): record.offset + 1 for record in golden.records()}


def install(stack: Stack, golden: Golden) -> None:
    """Give the broker the old log for the topics that were just created. It recovers it as after a crash."""
    stack.kafka.stop()
    log = stack.kafka.directory / "log"
    (log / ".kafka_cleanshutdown").unlink(missing_ok=True)
    for folder, segment in golden.segments.items():
        for file in (log / folder).glob("0*"):
            file.unlink()
        (log / folder / FIRST_SEGMENT).write_bytes(segment)
    stack.kafka.start()


def discard_again(shop: Stack, golden: Golden) -> None:
    """Act on the events that were parked again, as the operator did when the log was written."""
    ends = [(*partition, end) for partition, end in ends_of(golden).items()]
    behind = """
        SELECT FROM positions JOIN unnest(%s::text[], %s::int[], %s::bigint[]) AS log(topic, partition, log_end)
        USING (topic, partition) WHERE next_offset < log_end
    """
    for service in CONSUMERS:
        eventually(lambda s=service: shop.query(s, behind, columns(ends)) == [], f"{service} has read the log")  # type: ignore[misc]
        roots = shop.query(service, 'SELECT topic, partition, "offset" FROM parked_events WHERE root')
        records = [f"{topic}/{partition}@{offset}" for topic, partition, offset in roots]
        assert len(records) == len(golden.said), records
        shop.run_tool("ops.dead_letters", "discard", *records, "--service", service, *AGAIN)

    def all_done() -> bool:
        # Answers that are published again may be parked behind those that are redriven just now.
        shop.run_tool("ops.dead_letters", "redrive", "--all", *AGAIN)
        parked = "SELECT FROM parked_events WHERE state <> 'done'"
        return all(shop.query(service, parked) == [] for service in CONSUMERS)

    eventually(all_done, "nothing is parked")


def lose_an_order(shop: Stack) -> None:
    """An order is deleted before payment and inventory have read it. The operator accepts that, and cancels it."""
    product_id, customer_id = "deleted-product", "deleted-customer"
    shop.product(product_id, price=1, pieces=1)
    shop.await_orderable(product_id)
    for instance in ("payment-1", "inventory-1"):
        shop[instance].stop()
    order_id = shop.place(customer_id, (product_id, 1))
    stored = "SELECT partition FROM orders WHERE order_id = %s"
    [(number,)] = eventually(lambda: shop.query("order", stored, (order_id,)), "the saga has stored the order")
    partition = Partition(ORDERS, number)
    end = position(shop, "order", partition)
    delete_records(AdminClient(client_config(shop.brokers, "test")), partition, end)
    for service in ("payment", "inventory"):
        move(shop, service, partition, end)
        shop[CONSUMERS[service]].launch()
    shop.await_ready()
    shop.http.post(shop.url("order-api", f"/orders/{order_id}/cancel")).raise_for_status()
    order = shop.await_settled(order_id)
    assert (order["status"], order["payment"], order["inventory"]) == ("cancelled", "void", "void")


def test_an_old_log_is_replayed_into_empty_databases(shop: Stack, golden: Golden) -> None:
    for instance in CONSUMERS.values():
        shop[instance].await_unready("lost transactions")
    for said in golden.said.values():
        for customer_id, amount, currency in said["deposits"]:  # no topic has them
            url = shop.url("payment", f"/accounts/{customer_id}/deposits")
            shop.http.post(url, json={"amount": amount, "currency": currency}).raise_for_status()
    print(shop.run_tool("ops.replay", "payment", *AGAIN))
    print(shop.run_tool("ops.replay", "inventory", *AGAIN, "--cover"))
    print(shop.run_tool("ops.replay", "order", *AGAIN))
    shop.await_ready()
    discard_again(shop, golden)
    orders = {order["order_id"]: order for said in golden.said.values() for order in said["orders"].values()}
    await_rest(shop, orders.keys())

    for order_id, order in orders.items():
        replayed = shop.order(order_id)
        assert {name: replayed[name] for name in order} == order
    for revision, said in golden.said.items():
        assert {c: shop.balance(c) for c in said["balances"]} == said["balances"], revision
        ended = {name: (order["status"], order["reason"]) for name, order in said["orders"].items()}
        assert ended == ENDED, revision
    assert_consistent(shop)
    print(shop.run_tool("ops.verify"))

    # The shop goes on, and today's code writes what its document says: all of it, and nothing else.
    lose_an_order(shop)
    Script(shop, len(golden.said) + 1).play()
    described = check_log(shop.brokers)
    assert described.wrong == []
    assert described.unseen() == [], "no record had these"
