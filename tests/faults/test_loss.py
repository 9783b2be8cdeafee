"""A log that is not the one a consumer knew: the consumer stops, names the loss on /readyz and in its log, and skips
nothing. An operator's repair then takes effect without a restart.
"""

from collections.abc import Sequence

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic  # type: ignore[attr-defined]

from common.events import INVENTORY, ORDERS, OUTCOMES, PAYMENTS
from common.kafka.broker import Partition, log_bounds
from common.kafka.clients import client_config
from common.kafka.settings import KEPT
from tests.progress import SERVICES, await_read, position
from tests.proof import LightProof
from tests.stack import Stack, frozen
from tests.truncation import delete_records, move
from tests.waiting import eventually

CUSTOMER = "ann"
CONSUMERS = ("payment-1", "inventory-1", "order-saga-1")


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Stack:
    own_stack.launch_all()
    own_stack.product("sku-a", price=100, pieces=10**6)
    own_stack.account(CUSTOMER, 10**6)
    own_stack.await_orderable("sku-a")
    return own_stack


@pytest.fixture
def admin(shop: Stack) -> AdminClient:
    return shop.admin


@pytest.fixture
def partition(shop: Stack) -> Partition:
    """The partition of the customer's orders, read to its end by every service."""
    return read_to_its_end(shop, shop.place(CUSTOMER, ("sku-a", 1)))


def read_to_its_end(shop: Stack, order_id: str) -> Partition:
    """Wait until the order is settled and every service has read all its topics. Returns the partition of the order."""
    shop.await_settled(order_id)
    await_read(shop)
    [(number,)] = shop.query("order", "SELECT partition FROM orders WHERE order_id = %s", (order_id,))
    return Partition(ORDERS, number)


def times_logged(shop: Stack, instance: str, words: str) -> int:
    return sum("loss detected" in line and words in line for line in shop[instance].log.read_text().splitlines())


def test_records_deleted_above_the_position(shop: Stack, admin: AdminClient, partition: Partition) -> None:
    shop["payment-1"].stop()
    position_before = position(shop, "payment", partition)
    lost = [shop.place(CUSTOMER, ("sku-a", 1)) for _ in range(3)]
    for service in ("inventory", "order"):
        eventually(lambda s=service: position(shop, s, partition) >= position_before + 3, f"{service} has read them")  # type: ignore[misc]
    delete_records(admin, partition, position_before + 3)
    kept = shop.place(CUSTOMER, ("sku-a", 1))
    light = LightProof(shop)
    [problem] = light.rounds(1)["statements"][0]["reasons"]
    light.close()
    assert problem.startswith(f"{partition} begins at offset {position_before + 3}, and payment has only read up to")
    shop["payment-1"].launch()
    reason = shop["payment-1"].await_unready(
        str(partition), f"starts at offset {position_before + 3}", "3 records were deleted"
    )
    assert shop["payment-1"].get("/livez").status_code == 200
    assert position(shop, "payment", partition) == position_before, "nothing was skipped"
    assert shop.query("payment", "SELECT FROM payments WHERE order_id = %s", (kept,)) == []

    # The loss is logged once, however often it is found; and the repair takes effect without a restart.
    eventually(lambda: shop["payment-1"].log.read_text().count("loss detected") > 0, "the log names it")
    move(shop, "payment", partition, position_before + 3)
    shop.await_ready("payment-1")
    assert shop.await_settled(kept)["status"] == "confirmed"
    assert times_logged(shop, "payment-1", "starts at offset") == 1, reason
    assert {shop.order(order_id)["status"] for order_id in lost} == {"pending"}, "they stay for all to see"
    for order_id in lost:
        shop.http.post(shop.url("order-api", f"/orders/{order_id}/cancel")).raise_for_status()
        order = shop.await_settled(order_id)
        assert (order["status"], order["payment"], order["inventory"]) == ("cancelled", "void", "released")


def test_records_deleted_above_the_position_of_a_running_consumer(
    shop: Stack, admin: AdminClient, partition: Partition
) -> None:
    """The consumer is frozen while the records that it has not read are deleted."""
    with frozen(shop["payment-1"]):
        lost = [shop.place(CUSTOMER, ("sku-a", 1)) for _ in range(3)]
        _, end = log_bounds(admin, [partition])[partition]
        for service in ("inventory", "order"):
            eventually(lambda s=service: position(shop, s, partition) >= end, f"{service} has read them")  # type: ignore[misc]
        delete_records(admin, partition, end)
    shop["payment-1"].await_unready(str(partition), "deleted")
    # It may have received one record before it froze.
    assert position(shop, "payment", partition) <= end - 2, "nothing was skipped"
    assert times_logged(shop, "payment-1", str(partition)) >= 1
    move(shop, "payment", partition, end)
    shop.await_ready("payment-1")
    assert shop.await_settled(shop.place(CUSTOMER, ("sku-a", 1)))["status"] == "confirmed"
    assert shop.query("payment", "SELECT FROM payments WHERE order_id = ANY(%s::uuid[])", (lost[1:],)) == []


def test_a_log_that_ends_before_the_position(shop: Stack, admin: AdminClient, partition: Partition) -> None:
    shop["inventory-1"].stop()
    position_before = position(shop, "inventory", partition)
    move(shop, "inventory", partition, position_before + 5)
    shop["inventory-1"].launch()
    shop["inventory-1"].await_unready(
        str(partition), f"ends at offset {position_before}", f"position {position_before + 5}"
    )
    placed = shop.place(CUSTOMER, ("sku-a", 1))
    move(shop, "inventory", partition, position_before)
    shop.await_ready("inventory-1")
    assert shop.await_settled(placed)["status"] == "confirmed"


def test_offsets_that_a_transaction_takes_are_no_loss(shop: Stack, admin: AdminClient, partition: Partition) -> None:
    """Records that were aborted are not given out, and a transaction's marker takes an offset too."""
    for instance in CONSUMERS:
        shop[instance].stop()
    _, end = log_bounds(admin, [partition])[partition]  # the saga has published all it had stored
    stranger = Producer({**client_config(shop.brokers, "test"), "transactional.id": "stranger"})
    stranger.init_transactions(30)
    stranger.begin_transaction()
    stranger.produce(ORDERS, b"not an event", b"stranger", partition.number)
    stranger.flush(30)
    stranger.abort_transaction()  # it returns before the marker is written
    eventually(lambda: log_bounds(admin, [partition])[partition][1] == end + 2, "the marker is in the log")
    after = shop.place(CUSTOMER, ("sku-a", 1))
    for instance in CONSUMERS:
        shop[instance].launch()
    shop.await_ready()
    assert shop.await_settled(after)["status"] == "confirmed"
    for service in ("payment", "inventory", "order"):
        assert shop.query(service, "SELECT FROM parked_events WHERE key = 'stranger'") == []


def test_a_partition_added_to_a_topic_while_it_is_read(shop: Stack, admin: AdminClient) -> None:
    count = int(shop.variables["TOPIC_PARTITIONS"])
    for future in admin.create_partitions([NewPartitions(PAYMENTS, count + 1)]).values():
        future.result()
    # Payment publishes to the topic and the saga reads it. Inventory does not use it and goes on.
    shop["order-saga-1"].await_unready(PAYMENTS, f"{count + 1}", f"{count}")
    shop["payment-1"].await_unready(PAYMENTS, f"{count + 1}", f"{count}")
    assert shop["inventory-1"].unready() is None
    # After a restart too: the topics differ in their partition counts.
    shop["order-saga-1"].stop()
    shop["order-saga-1"].launch()
    shop["order-saga-1"].await_unready("equal partition counts", f"'{PAYMENTS}': {count + 1}", f"'{ORDERS}': {count}")
    others = [NewPartitions(topic, count + 1) for topic in (ORDERS, OUTCOMES, INVENTORY)]
    for future in admin.create_partitions(others).values():
        future.result()
    # The counts are equal again, but customers have changed partition.
    for instance in CONSUMERS:
        shop[instance].await_unready(f"has {count + 1} partitions, positions are known for {count}")


@pytest.fixture
def second(fresh_stack: Stack) -> Stack:
    """A stack for the test that creates a topic anew: afterwards no consumer can go on."""
    fresh_stack.launch_all()
    fresh_stack.product("sku-a", price=100, pieces=10**6)
    fresh_stack.account(CUSTOMER, 10**6)
    fresh_stack.await_orderable("sku-a")
    return fresh_stack


def recreate(stack: Stack, names: Sequence[str]) -> None:
    admin = stack.admin
    for future in admin.delete_topics(list(names)).values():
        future.result()
    count = int(stack.variables["TOPIC_PARTITIONS"])

    def created() -> bool:
        futures = admin.create_topics([NewTopic(name, count, 1, config=dict(KEPT)) for name in names])
        return all(future.exception() is None for future in futures.values())

    eventually(created, "the topics are there again")


def test_a_topic_created_anew_while_it_is_read(second: Stack) -> None:
    read_to_its_end(second, second.place(CUSTOMER, ("sku-a", 1)))
    stored = {s: second.query(s, "SELECT * FROM positions ORDER BY 1, 2") for s in SERVICES}
    recreate(second, [ORDERS])
    second.place(CUSTOMER, ("sku-a", 1))
    for instance in CONSUMERS:
        second[instance].await_unready(ORDERS, "created anew")
    for instance in CONSUMERS:
        second[instance].stop()
        second[instance].launch()
    for instance in CONSUMERS:
        second[instance].await_unready(ORDERS, "created anew")
        assert times_logged(second, instance, "created anew") >= 1
    for service, rows in stored.items():
        assert second.query(service, "SELECT * FROM positions ORDER BY 1, 2") == rows, "no record of it was processed"
