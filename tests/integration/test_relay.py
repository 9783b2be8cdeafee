"""The catalogue's relay on a real log: when two processes both believe to be the relay, only the later one's records
count."""

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition

from common.codec import decoder_for, encode
from common.config import Env, Process
from common.events import PRODUCTS, Milliseconds, ProductData, product_changed
from common.kafka.clients import client_config
from inventory import config
from inventory.relay import fence, publish
from inventory.store import Change
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
    servers = stack.variables["KAFKA_BOOTSTRAP_SERVERS"]
    consumer = Consumer({**client_config(servers, "test"), "group.id": "test", "enable.partition.eof": True})
    consumer.assign([TopicPartition(PRODUCTS, 0, 0)])
    published = []
    while (message := consumer.consume(1, 10)[0]).error() is None:
        product = decoder_for[PRODUCTS].decode(message.value() or b"").data
        if product.product_id == product_id:
            published.append(product.version)
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
