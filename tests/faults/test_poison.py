"""Poison of each sort: the event and the later ones of its customer are parked, other customers are not affected, an
operator redrives or discards them, and then all balances agree."""

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Producer

from common.codec import encode
from common.events import ORDERS, PAYMENTS, Item, Milliseconds, OrderPlaced, PlacedData, make
from common.kafka.clients import client_config, producer_config
from tests.audit import assert_consistent
from tests.progress import behind
from tests.stack import Stack, frozen
from tests.stranger import Stranger
from tests.waiting import eventually

ORDER_ID = "01997c5e-0000-7000-8000-{:012d}"
BALANCE = 10**6


@pytest.fixture(scope="module")
def shop(own_stack: Stack) -> Stack:
    own_stack.launch_all()
    own_stack.product("sku-a", price=100, pieces=10**6)
    own_stack.await_orderable("sku-a")
    return own_stack


@pytest.fixture
def log(shop: Stack) -> Iterator[Producer]:
    config = producer_config(shop.brokers, "test", linger_ms=0)
    producer = Producer({**config, "log_level": 0})
    yield producer
    producer.flush(10)


def placed(number: int, customer_id: str) -> dict[str, Any]:
    data = PlacedData(
        order_id=ORDER_ID.format(number),
        customer_id=customer_id,
        items=(Item("sku-a", 1, 100),),
        amount=100,
        currency="EUR",
    )
    event: dict[str, Any] = json.loads(encode(make(OrderPlaced, data, at=Milliseconds(0), traceparent="")))
    return event


def with_data(event: dict[str, Any], **data: Any) -> bytes:
    return json.dumps(event | {"data": event["data"] | data}).encode()


def without(event: dict[str, Any], field: str) -> bytes:
    return json.dumps({name: value for name, value in event.items() if name != field}).encode()


SORTS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "not JSON": lambda _: b"<order/>",
    "not UTF-8": lambda _: b'{"type":"order.placed","id":"\xff"}',
    "empty": lambda _: b"",
    "unknown type": lambda event: json.dumps(event | {"type": "order.teleported"}).encode(),
    "missing field": lambda event: without(event, "data"),
    "wrong type": lambda event: with_data(event, amount="much"),
    "number out of range": lambda event: with_data(event, amount=2**60),
    "NUL in a text": lambda event: with_data(event, items=[{"product_id": "a\0b", "quantity": 1, "unit_price": 1}]),
    "a megabyte of nesting": lambda _: b"[" * 499_000 + b"]" * 499_000,
    "newer version": lambda event: json.dumps(event | {"specversion": "2.0"}).encode(),
    "NUL in the trace": lambda event: json.dumps(event | {"traceparent": "00-\0"}).encode(),
    "an endless trace": lambda event: json.dumps(event | {"traceparent": "0" * 900_000}).encode(),
    "another customer's key": lambda event: with_data(event, customer_id="somebody-else"),
}


def parked(shop: Stack, service: str, customer_id: str) -> list[tuple[bool, str]]:
    return [
        tuple(row)
        for row in shop.query(
            service,
            'SELECT root, state FROM parked_events WHERE key = %s ORDER BY record_time, topic, "offset"',
            (customer_id.encode(),),
        )
    ]


def dlq(shop: Stack, *arguments: str) -> str:
    return shop.run_tool("ops.dead_letters", *arguments)


def test_each_sort_is_parked_with_its_followers_and_other_customers_are_not_affected(
    shop: Stack, log: Producer
) -> None:
    shop.account("fine", BALANCE)
    followers = {}
    for number, (sort, spoil) in enumerate(SORTS.items()):
        customer_id = f"poisoned-{number:02}"
        shop.account(customer_id, BALANCE)
        log.produce(ORDERS, spoil(placed(number, customer_id)), customer_id)
        log.flush(10)
        followers[customer_id] = (sort, shop.place(customer_id, ("sku-a", 1)))
        assert shop.await_settled(shop.place("fine", ("sku-a", 1)))["status"] == "confirmed", sort
    for customer_id, (sort, follower) in followers.items():
        for service in ("payment", "inventory", "order"):
            eventually(
                lambda s=service, c=customer_id: len(parked(shop, s, c)) == 2,  # type: ignore[misc]
                f"{sort}: parked in {service} with its follower",
            )
            assert parked(shop, service, customer_id) == [(True, "parked"), (False, "parked")], (sort, service)
        assert shop.balance(customer_id) == BALANCE, sort
        assert shop.order(follower)["status"] == "pending", sort
    listed = dlq(shop, "list")
    for customer_id in followers:
        assert listed.count(customer_id) == 6
    shop.await_ready()

    # Once the poison is discarded, the events behind it are redriven and the customer can order again.
    keys = [customer_id.encode() for customer_id in followers]
    for service in ("payment", "inventory", "order"):
        roots = shop.query(
            service, 'SELECT topic, partition, "offset" FROM parked_events WHERE key = ANY(%s) AND root', (keys,)
        )
        assert len(roots) == len(followers)
        named = [f"{topic}/{partition}@{offset}" for topic, partition, offset in roots]
        dlq(shop, "discard", *named, "--service", service, "--why", "no event of ours")
    dlq(shop, "redrive", "--all", "--why", "the poison is gone")
    for customer_id, (sort, follower) in followers.items():
        assert shop.await_settled(follower)["status"] == "confirmed", sort
        assert shop.await_settled(shop.place(customer_id, ("sku-a", 1)))["status"] == "confirmed", sort
    assert "nothing is parked" in dlq(shop, "list", "--service", "payment")


def test_nothing_that_a_stranger_writes_stops_the_consumers(shop: Stack, log: Producer) -> None:
    """Headers of any bytes and any number, tombstones, keys of any bytes, and transactions, which take offsets."""
    brokers = shop.brokers
    shop.account("headed", BALANCE)
    stranger = Stranger(brokers)
    event = placed(500, "headed")
    stranger.write(ORDERS, 2, b"headed", json.dumps(event).encode(), [(b"\xff\xfe", b"1"), (b"", b""), (b"\xc3", b"")])
    stranger.write(ORDERS, 2, b"tombstone", None, [(b"n", b"v" * 4_000)] * 200)
    stranger.write(ORDERS, 2, b"\xff\x1b[2J", b"\x00", [(b"\xed\xa0\x80", b"")])
    stranger.close()
    assert shop.await_settled(event["subject"])["status"] == "confirmed"
    transacting = Producer({**client_config(brokers, "test"), "transactional.id": "stranger", "log_level": 0})
    transacting.init_transactions(30)
    for end in (transacting.abort_transaction, transacting.commit_transaction):
        transacting.begin_transaction()
        transacting.produce(ORDERS, b"not an event", b"transacting", 2)
        transacting.flush(30)
        end()
    rubbish = [b"tombstone", b"\xff\x1b[2J", b"transacting"]
    roots = 'SELECT "offset" FROM parked_events WHERE key = ANY(%s) AND root ORDER BY 1'
    for service in ("payment", "inventory", "order"):
        rows = eventually(
            lambda s=service: (len(found := shop.query(s, roots, (rubbish,))) == 3 and found) or None,  # type: ignore[misc]
            f"three are parked in {service}",
        )
        named = [f"orders/2@{offset}" for (offset,) in rows]
        dlq(shop, "discard", *named, "--service", service, "--why", "a stranger's")
    # The log ends in a marker, after which no record comes: it is passed all the same.
    for service in ("payment", "inventory", "order"):
        eventually(lambda s=service: behind(shop, s, ORDERS) == 0, f"{service} stands at the ends")  # type: ignore[misc]
    shop.await_ready()
    proof = shop.tool("ops.verify")
    assert proof.returncode != 1, proof.stdout
    assert "no records from offset" not in proof.stdout


def test_records_without_the_brokers_time_wait_until_the_topic_is_mended(shop: Stack) -> None:
    brokers = shop.brokers
    shop.account("untimely", BALANCE)
    shop.set_topic(ORDERS, "message.timestamp.type", "CreateTime")
    drift = "topic 'orders': message.timestamp.type is CreateTime, must be LogAppendTime"
    for instance in shop.instances.values():
        eventually(lambda i=instance: drift in str(i.get("/readyz").json()["degraded"]), f"{instance.name} names it")  # type: ignore[misc]
    assert drift in shop.run_tool("ops.topics", "list")
    order = shop.place("untimely", ("sku-a", 1))
    stranger = Stranger(brokers)
    stranger.write(ORDERS, 4, b"ancient", b"not an event", at_ms=-1)
    stranger.close()
    for service in ("payment", "inventory", "order"):
        eventually(lambda s=service: len(parked(shop, s, "untimely")) == 1, f"parked in {service}")  # type: ignore[misc]
        eventually(lambda s=service: len(parked(shop, s, "ancient")) == 1, f"parked in {service}")  # type: ignore[misc]
    assert "'just topics create' sets it again" in dlq(shop, "show", "--customer", "untimely", "--service", "payment")
    assert "message.timestamp.type set to LogAppendTime, it was CreateTime" in shop.run_tool("ops.topics", "create")
    assert shop.run_tool("ops.topics", "create") == "", "nothing is left to do"
    for instance in shop.instances.values():
        eventually(lambda i=instance: i.get("/readyz").json()["degraded"] == [], f"{instance.name} sees it")  # type: ignore[misc]
    dlq(shop, "redrive", "--customer", "untimely", "--why", "the topic has the broker's time again")
    assert shop.await_settled(order)["status"] == "confirmed"
    for service in ("payment", "inventory", "order"):
        dlq(shop, "discard", "--customer", "ancient", "--service", service, "--why", "a stranger's")
    assert shop.await_settled(shop.place("untimely", ("sku-a", 1)))["status"] == "confirmed"


def test_what_the_log_refuses_is_said_to_be_refused(shop: Stack) -> None:
    shop.account("refused", BALANCE)
    shop.set_topic(ORDERS, "max.message.bytes", "100")
    answer = shop.post({"customer_id": "refused", "product_id": "sku-a", "quantity": 1})
    assert answer.status_code == 503
    assert "the log refuses this: Broker: Message size too large; this request placed nothing" in answer.text
    assert "order_id" not in answer.json()
    shop.set_topic(ORDERS, "max.message.bytes", "1048588")
    shop.set_topic(PAYMENTS, "max.message.bytes", "100")
    order = shop.place("refused", ("sku-a", 1))
    shop["payment-1"].await_unready("topic 'payments' refuses a record of", "Message size too large", "'just topics'")
    shop.run_tool("ops.topics", "create")
    assert shop.await_settled(order)["status"] == "confirmed"
    shop.await_ready()


def test_an_operator_can_have_a_service_skip_a_record(shop: Stack) -> None:
    shop.account("skipped", BALANCE)
    shop["payment-1"].stop()
    order = shop.place("skipped", ("sku-a", 1))
    [(partition,)] = eventually(
        lambda: shop.query("order", "SELECT partition FROM orders WHERE order_id = %s", (order,)),
        "it is stored",
    )
    [(offset,)] = shop.query(
        "payment", "SELECT next_offset FROM positions WHERE topic = 'orders' AND partition = %s", (partition,)
    )
    here = f"orders/{partition}@{offset}"
    passed = shop.tool("ops.dead_letters", "skip", f"orders/{partition}@0", "--service", "payment", "--why", "typo")
    assert passed.returncode != 0
    assert "payment has passed orders/" in passed.stderr
    dlq(shop, "skip", here, "--service", "payment", "--why", "it ends the consumer")
    shop["payment-1"].launch()
    eventually(lambda: parked(shop, "payment", "skipped") == [(True, "parked")], "it is parked unread")
    shown = dlq(shop, "show", here, "--service", "payment")
    assert "skipped by" in shown
    assert "skip by" in shown
    assert shop.balance("skipped") == BALANCE
    dlq(shop, "redrive", here, "--service", "payment", "--why", "the consumer is mended")
    assert shop.await_settled(order)["status"] == "confirmed"


def test_an_event_without_a_key_is_parked_alone(shop: Stack, log: Producer) -> None:
    shop.account("keyless", BALANCE)
    log.produce(ORDERS, json.dumps(placed(100, "keyless")).encode(), partition=3)
    log.flush(10)
    alone = "SELECT state FROM parked_events WHERE key IS NULL AND root AND state <> 'done'"
    for service in ("payment", "inventory", "order"):
        eventually(lambda s=service: shop.query(s, alone) == [("parked",)], f"parked in {service}")  # type: ignore[misc]
    assert shop.await_settled(shop.place("keyless", ("sku-a", 1)))["status"] == "confirmed"
    for service in ("payment", "inventory", "order"):
        [(topic, partition, offset)] = shop.query(
            service, 'SELECT topic, partition, "offset" FROM parked_events WHERE key IS NULL'
        )
        dlq(shop, "discard", f"{topic}/{partition}@{offset}", "--service", service, "--why", "no key")
        eventually(lambda s=service: shop.query(s, alone) == [], f"gone from {service}")  # type: ignore[misc]


def test_a_foreign_record_with_a_key_no_index_takes_is_parked_alone(shop: Stack, log: Producer) -> None:
    log.produce(ORDERS, b"from elsewhere", os.urandom(4_000), partition=5)
    log.flush(10)
    alone = "SELECT \"offset\" FROM parked_events WHERE length(key) = 4000 AND root AND state = 'parked'"
    for service in ("payment", "inventory", "order"):
        [(offset,)] = eventually(lambda s=service: shop.query(s, alone), f"parked in {service}")  # type: ignore[misc]
        assert f"orders/5@{offset}" in dlq(shop, "list", "--service", service)
        dlq(shop, "discard", f"orders/5@{offset}", "--service", service, "--why", "foreign")
        eventually(lambda s=service: shop.query(s, alone) == [], f"gone from {service}")  # type: ignore[misc]


def test_an_order_id_that_belongs_to_another_customer_is_parked_and_can_be_discarded(
    shop: Stack, log: Producer
) -> None:
    for customer_id in ("owner", "intruder"):
        shop.account(customer_id, BALANCE)
    taken = shop.place("owner", ("sku-a", 1))
    assert shop.await_settled(taken)["status"] == "confirmed"
    event = placed(300, "intruder")
    forged = event | {"subject": taken, "data": event["data"] | {"order_id": taken}}
    log.produce(ORDERS, json.dumps(forged).encode(), "intruder")
    log.flush(10)
    for service in ("payment", "inventory", "order"):
        eventually(lambda s=service: len(parked(shop, s, "intruder")) == 1, f"parked in {service}")  # type: ignore[misc]
        [(topic, partition, offset)] = shop.query(
            service, "SELECT topic, partition, \"offset\" FROM parked_events WHERE key = 'intruder'"
        )
        dlq(shop, "discard", f"{topic}/{partition}@{offset}", "--service", service, "--why", "forged")
        eventually(lambda s=service: parked(shop, s, "intruder") == [(True, "done")], f"discarded in {service}")  # type: ignore[misc]
    order = shop.order(taken)
    assert (order["customer_id"], order["status"], order["settled"]) == ("owner", "confirmed", True)
    assert (shop.balance("owner"), shop.balance("intruder")) == (BALANCE - 100, BALANCE)
    assert shop.await_settled(shop.place("intruder", ("sku-a", 1)))["status"] == "confirmed"


def test_an_event_that_breaks_a_constraint_is_found_in_its_batch_and_redriven_when_mended(
    shop: Stack, log: Producer
) -> None:
    """The order is well formed, but a new and wrong constraint of the database refuses its row."""
    customers = [f"bounded-{i}" for i in range(20)]
    for customer_id in customers:
        shop.account(customer_id, BALANCE)
    with shop.postgres.connect("payment") as owner:
        owner.execute("ALTER TABLE payments ADD CONSTRAINT not_bounded_7 CHECK (customer_id <> 'bounded-7')")
    try:
        with frozen(shop["payment-1"]):
            orders = {customer_id: shop.place(customer_id, ("sku-a", 1)) for customer_id in customers}
            second = shop.place("bounded-7", ("sku-a", 1))
        for customer_id, order_id in orders.items():
            if customer_id != "bounded-7":
                assert shop.await_settled(order_id)["status"] == "confirmed"
        eventually(lambda: len(parked(shop, "payment", "bounded-7")) == 2, "parked in payment, with its follower")
        # A redrive that comes too early parks it again, counts the attempt, and does not loop.
        dlq(shop, "redrive", "--customer", "bounded-7", "--why", "too early")
        attempts = "SELECT attempts, state FROM parked_events WHERE key = 'bounded-7' AND root"
        eventually(lambda: shop.query("payment", attempts) == [(2, "parked")], "parked again")
        assert parked(shop, "payment", "bounded-7") == [(True, "parked"), (False, "parked")]
    finally:
        with shop.postgres.connect("payment") as owner:
            owner.execute("ALTER TABLE payments DROP CONSTRAINT not_bounded_7")
    dlq(shop, "redrive", "--customer", "bounded-7", "--why", "the constraint is gone", "--actor", "ann")
    for order_id in (orders["bounded-7"], second):
        assert shop.await_settled(order_id)["status"] == "confirmed"
    assert shop.balance("bounded-7") == BALANCE - 200
    acts = shop.query("payment", "SELECT DISTINCT act, actor, why FROM dead_letter_acts WHERE actor = 'ann'")
    assert acts == [("redrive", "ann", "the constraint is gone")]


def test_a_discarded_order_is_rejected_and_nothing_of_it_remains(shop: Stack, log: Producer) -> None:
    shop.account("given-up", BALANCE)
    log.produce(ORDERS, with_data(placed(200, "given-up"), currency="euro"), "given-up")
    log.flush(10)
    for service in ("payment", "inventory", "order"):
        eventually(lambda s=service: len(parked(shop, s, "given-up")) > 0, f"parked in {service}")  # type: ignore[misc]
        [(topic, partition, offset)] = shop.query(
            service, "SELECT topic, partition, \"offset\" FROM parked_events WHERE key = 'given-up' AND root"
        )
        at = f"{topic}/{partition}@{offset}"
        assert "dry run" in dlq(shop, "discard", at, "--service", service, "--why", "x", "--dry-run")
        assert (True, "parked") in parked(shop, service, "given-up")
        assert "currency" in dlq(shop, "show", at, "--service", service)
        dlq(shop, "discard", at, "--service", service, "--why", "typed by hand")
    # In the saga, the results of payment and inventory were parked behind the order.
    dlq(shop, "redrive", "--service", "order", "--customer", "given-up", "--why", "the order was discarded")
    settled = "SELECT FROM orders WHERE order_id = %s AND settled_at IS NOT NULL"
    eventually(lambda: shop.query("order", settled, (ORDER_ID.format(200),)) != [], "the discarded order is settled")
    order = shop.order(ORDER_ID.format(200))
    assert (order["status"], order["reason"]) == ("rejected", "discarded")
    assert (order["payment"], order["inventory"]) == ("declined", "rejected")
    assert shop.balance("given-up") == BALANCE


def test_a_bad_deployment_stops_the_consumer_until_it_is_resumed(shop: Stack, log: Producer) -> None:
    for number in range(150):
        log.produce(ORDERS, b"nonsense", f"flood-{number}")
    log.flush(10)
    for instance in ("payment-1", "inventory-1", "order-saga-1"):
        shop[instance].await_unready("dlq resume")
        assert shop[instance].get("/livez").status_code == 200
    shop["payment-1"].stop()
    shop["payment-1"].launch()
    shop["payment-1"].await_unready("dlq resume")
    assert "STOPPED" in dlq(shop, "list")
    shop.account("patient", BALANCE)
    waiting = shop.place("patient", ("sku-a", 1))
    assert shop.order(waiting)["status"] == "pending"
    dlq(shop, "resume", "--why", "the old version is back")
    assert shop.await_settled(waiting)["status"] == "confirmed"
    shop.await_ready()
    assert_consistent(shop)
    listed = re.search(r"parked events that are not done: (\d+);", shop.run_tool("ops.verify"))
    assert listed is not None, "all is proved, or listed"
    assert int(listed[1]) >= 3 * 150


def test_partitions_lost_while_stopped_and_given_back_are_read_again(shop: Stack) -> None:
    """librdkafka keeps a partition paused when it is revoked and assigned again."""
    customers = [f"shared-{i}" for i in range(30)]  # enough to be in every partition
    for customer_id in customers:
        shop.account(customer_id, BALANCE)
    with shop.postgres.connect("payment") as owner:
        owner.execute("INSERT INTO stops (reason) VALUES ('a test')")
    shop["payment-1"].await_unready("dlq resume")
    shop.launch("payment", 2)
    shop["payment-2"].await_unready("dlq resume")
    dlq(shop, "resume", "--service", "payment", "--why", "the test goes on")
    shop.await_ready("payment-1", "payment-2")
    for _ in range(2):
        ids = [shop.place(customer_id, ("sku-a", 1)) for customer_id in customers]
        assert {shop.await_settled(order_id)["status"] for order_id in ids} == {"confirmed"}
        shop["payment-2"].stop()


def test_all_parked_events_of_a_customer_are_discarded_at_once(shop: Stack, log: Producer) -> None:
    shop.account("hopeless", BALANCE)
    log.produce(ORDERS, b"nonsense", "hopeless")
    log.flush(10)
    follower = shop.place("hopeless", ("sku-a", 1))
    # In the saga, the results of payment and inventory are parked behind the order, and must not be discarded.
    for service, followers in (("payment", 0), ("inventory", 0), ("order", 2)):
        eventually(
            lambda s=service, f=followers: len(parked(shop, s, "hopeless")) == 2 + f,  # type: ignore[misc]
            f"parked in {service}",
        )
        act = ("discard", "--customer", "hopeless", "--service", service, "--why", "nobody wants it")
        assert f"{service}: 2 events marked as discarded (dry run" in dlq(shop, *act, "--dry-run")
        assert {state for _, state in parked(shop, service, "hopeless")} == {"parked"}
        printed = dlq(shop, *act)
        assert f"{service}: 2 events marked as discarded\n" in printed
        assert printed.count("not discarded") == followers
    dlq(shop, "redrive", "--customer", "hopeless", "--why", "what payment and inventory said of it")
    order = shop.await_settled(follower)
    assert (order["status"], order["reason"]) == ("rejected", "discarded")
    assert shop.balance("hopeless") == BALANCE
    rows = shop.query("payment", "SELECT topic, partition, \"offset\" FROM parked_events WHERE key = 'hopeless'")
    named = [f"{topic}/{partition}@{offset}" for topic, partition, offset in rows]
    assert dlq(shop, "show", *named, "--service", "payment").count("discard by ") == 2


def test_a_parked_record_of_a_recreated_topic_is_not_confused_with_the_new_one(shop: Stack, log: Producer) -> None:
    shop.account("before", BALANCE)
    log.produce(ORDERS, with_data(placed(400, "after"), currency="euro"), "after")
    log.flush(10)
    eventually(lambda: parked(shop, "payment", "after"), "parked in payment")
    [(partition, offset)] = shop.query("payment", "SELECT partition, \"offset\" FROM parked_events WHERE key = 'after'")
    with shop.postgres.connect("payment") as owner:
        owner.execute(
            """INSERT INTO parked_events
                 (topic, partition, "offset", topic_id, key, value, headers, record_time, root, error)
               VALUES ('orders', %s, %s, 'old', 'before', %s, '[]', 'epoch', true, 'of the topic before')""",
            (partition, offset, json.dumps(placed(401, "before")).encode()),
        )
    here = f"orders/{partition}@{offset}"
    listed = dlq(shop, "list", "--service", "payment")
    assert f"{here}#old " in listed
    assert f"{here} " in listed
    dlq(shop, "redrive", f"{here}#old", "--service", "payment", "--why", "its order still counts")
    eventually(lambda: parked(shop, "payment", "before") == [(True, "done")], "the old one is redriven")
    assert parked(shop, "payment", "after") == [(True, "parked")], "the record that has this offset now stays parked"
    assert shop.balance("before") == BALANCE - 100
    dlq(shop, "discard", here, "--service", "payment", "--why", "typed by hand")
    eventually(lambda: parked(shop, "payment", "after") == [(True, "done")], "the new one is discarded")
    assert "discard by" not in dlq(shop, "show", f"{here}#old", "--service", "payment")
