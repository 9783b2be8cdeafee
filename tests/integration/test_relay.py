"""The catalogue's relay on a real log: when two processes both believe to be the relay, only the later one's records
count; what the topic has lost is published again, and what the database has lost is not overwritten."""

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition

from common.codec import decoded, decoder_for, encode
from common.config.env import Env
from common.config.process import Process
from common.events import PRODUCTS, Milliseconds, ProductData, product_changed
from common.kafka.clients import client_config, producer_config
from inventory import config
from inventory.relay import fence, publish
from inventory.relay_store import Change
from tests.servers import topic_names
from tests.stack import Stack
from tests.waiting import eventually


def relay_of(stack: Stack) -> Process:
    """The settings of a relay that runs beside those of the stack."""
    return config.load(Env("inventory", {**stack.variables, "INSTANCE": "zombie"}))


def await_published(stack: Stack, product_id: str, version: int) -> None:
    query = "SELECT published_version FROM products WHERE product_id = %s"
    eventually(lambda: stack.query("inventory", query, (product_id,)) == [(version,)], f"{product_id} is published")


def as_first_published(product_id: str) -> Change:
    product = ProductData(
        product_id=product_id, name=product_id, unit_price=100, currency="EUR", active=True, version=1
    )
    return Change(product, Milliseconds(0))


def versions(stack: Stack, product_id: str) -> list[int]:
    """The versions of the product, in the sequence of the log."""
    brokers = stack.brokers
    consumer = Consumer({**client_config(brokers, "test"), "group.id": "test", "enable.partition.eof": True})
    consumer.assign([TopicPartition(PRODUCTS, 0, OFFSET_BEGINNING)])
    published = []
    while (message := consumer.consume(1, 10)[0]).error() is None:
        event = decoded(decoder_for[PRODUCTS].decode, message.value())
        if event is not None and event.data.product_id == product_id:
            published.append(event.data.version)
    consumer.close()
    return published


def test_a_relay_that_was_overtaken_before_it_published_is_refused(stack: Stack) -> None:
    stack.product("overtaken-1", price=100)
    await_published(stack, "overtaken-1", 1)
    zombie = fence(relay_of(stack))
    stack.product("overtaken-1", price=200)
    await_published(stack, "overtaken-1", 2)
    with pytest.raises(KafkaException, match="fenced"):
        publish(zombie, [as_first_published("overtaken-1")])
    assert versions(stack, "overtaken-1") == [1, 2]


def test_the_open_transaction_of_an_overtaken_relay_does_not_count(stack: Stack) -> None:
    stack.product("overtaken-2", price=100)
    await_published(stack, "overtaken-2", 1)
    zombie = fence(relay_of(stack))
    zombie.begin_transaction()
    product, at = as_first_published("overtaken-2")
    zombie.produce(PRODUCTS, encode(product_changed(product, at=at)), product.product_id.encode())
    assert zombie.flush(10) == 0, "the record is in the log, its transaction is open"
    stack.product("overtaken-2", price=200)
    await_published(stack, "overtaken-2", 2)
    with pytest.raises(KafkaException, match="fenced"):
        zombie.commit_transaction(10)
    assert versions(stack, "overtaken-2") == [1, 2]


def test_products_whose_last_record_is_not_theirs_are_published_again_on_demand(stack: Stack) -> None:
    """Someone has written a tombstone: the api keeps the product until compaction deletes it."""
    stack.product("deleted", price=100)
    await_published(stack, "deleted", 1)
    producer = Producer(producer_config(stack.brokers, "test", linger_ms=0))
    producer.produce(PRODUCTS, None, b"deleted")
    assert producer.flush(10) == 0
    printed = stack.run_tool("ops.replay", "inventory", "--why", "a tombstone", "--actor", "ann")
    assert "topic 'products' lacks 1 products; inventory publishes them again:\n  product deleted\n" in printed
    eventually(lambda: versions(stack, "deleted") == [1, 1], "the product is published again")


def test_the_catalogue_is_published_to_a_topic_that_was_made_anew(stack: Stack) -> None:
    stack.product("anew", price=100)
    await_published(stack, "anew", 1)
    stack.product("anew", price=200)
    await_published(stack, "anew", 2)
    admin = stack.admin
    for future in admin.delete_topics([PRODUCTS]).values():
        future.result()
    eventually(lambda: PRODUCTS not in topic_names(admin), "the topic is deleted")
    stack.run_tool("ops.topics", "create")
    eventually(lambda: versions(stack, "anew") == [2], "the product is published to the new topic")
    second = stack.launch("order-api", 2)
    second.await_ready()
    assert stack.post({"customer_id": "nobody", "product_id": "anew", "quantity": 1}).status_code == 202
    second.stop()
    del stack.instances[second.name]


def test_a_restored_database_does_not_publish_old_prices_after_the_new_ones(stack: Stack) -> None:
    stack.product("restored", price=300)
    await_published(stack, "restored", 1)
    stack.product("restored", price=400)
    await_published(stack, "restored", 2)
    stack["inventory-1"].stop()
    with stack.postgres.connect("inventory") as owner:  # as a backup from before the change has it
        owner.execute(
            "UPDATE products SET unit_price = 300, version = 1, published_version = 0 WHERE product_id = 'restored'"
        )
        owner.execute("DELETE FROM products WHERE product_id = 'overtaken-1'")
    stack["inventory-1"].launch()
    stack["inventory-1"].await_unready("entries of 2 products", "'just replay inventory'")
    assert versions(stack, "restored") == [1, 2]
    dry = stack.run_tool("ops.replay", "inventory", "--why", "restored", "--dry-run")
    assert "product restored: version 2, 400 EUR; the database had 300" in dry
    assert "product overtaken-1: version 2, 200 EUR; the database had no row" in dry
    assert stack.run_tool("ops.replay", "inventory", "--why", "restored", "--actor", "ann").startswith("inventory: 2 ")
    stack["inventory-1"].await_ready()
    await_published(stack, "restored", 3)
    expected = {"customer_id": "nobody", "product_id": "restored", "quantity": 1, "expected_amount": 400}
    eventually(lambda: stack.post(expected).status_code == 202, "the published price is charged")
    assert "nothing to replay" in stack.run_tool("ops.replay", "inventory", "--why", "once more")
