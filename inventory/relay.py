"""Publishes the catalogue: each change of a product becomes a `product.changed` in the topic `products`.

A row whose `version` is ahead of its `published_version` is published, and marked when the log has it. After a crash in
between it is published again, with the same version and event id. The mark is not believed for ever: the relay reads
the topic when it begins, when the topic has been made anew, and now and then, and publishes again what is not there.

The topic is compacted, so the last record of a product must be the one with its highest version, or compaction would
throw the newer price away and keep the older one. Two relays must therefore never write out of turn:

- Only the instance whose session has the advisory lock relays. A process that froze or vanished loses its session, and
  with it the lock, after `IDLE_SESSION_TIMEOUT_S`. No row is locked while Kafka answers: orders do not wait for it.
- A process that lost the lock may not know it yet, and may have a record in flight. So each new relay first takes over
  the transactional id. From then on the broker refuses the old relay's records and aborts its transaction (KIP-98).
  The order is lock, fence, read, publish: what the old relay read, it can no longer write. See decision 4.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, Message

from common import metrics
from common.codec import encode
from common.config.process import Process
from common.errors import LossDetected, Transient
from common.events import PRODUCTS, product_changed
from common.kafka import broker
from common.kafka.broker import Topic, TopicWatch
from common.kafka.clients import client_config, failure_of, producer_config
from common.kafka.identity import AdminClient, Producer
from common.postgres import Conn, connect, lead
from common.worker import Worker
from inventory import catalogue, relay_store
from inventory.relay_store import Change

NAME: Final = "inventory-relay"
POLL_S: Final = 0.5
"""A change that this process is not told of (`wake`) waits so long. So a product can be ordered within a second of its
PUT, or two while the catalogue is compared."""
BATCH_ROWS_MAX: Final = 50_000
"""A transaction: a catalogue up to this size becomes visible to a reader of a new topic as a whole."""
COMPARE_EVERY_S: Final = 60.0
COMPARE_SHARE_MAX: Final = 0.01
"""A large catalogue is compared less often: the relay spends at most this share of its time on it."""
# The session is idle for POLL_S between two queries, and while Kafka answers.
KAFKA_TIMEOUT_S: Final = 4.0
IDLE_SESSION_TIMEOUT_S: Final = 10
# The open transaction of a vanished relay keeps readers from later records for so long at most.
TRANSACTION_TIMEOUT_MS: Final = 10_000


class Relay(Worker):
    """Publishes the catalogue's changes until stopped."""

    def __init__(self, process: Process) -> None:
        super().__init__(NAME, self._run_session)
        self._process = process
        self._woken = threading.Event()

    def wake(self) -> None:
        """Tell it that there is something to publish. Any thread may call it."""
        self._woken.set()

    def stop(self) -> None:
        self.stopping.set()
        self._woken.set()
        super().stop()

    def _run_session(self) -> None:
        process = self._process
        with connect(process.database_url, process.instance, idle_timeout_s=IDLE_SESSION_TIMEOUT_S) as connection:
            self._serve_term(connection)

    def _serve_term(self, connection: Conn) -> None:
        """Wait for the lock, then relay until told to stop. Raises whatever ends the session."""
        while not lead(connection, "inventory relay"):
            self.report("")  # another instance does the work
            if self.stopping.wait(POLL_S):
                return
        producer = fence(self._process)
        admin = AdminClient(client_config(self._process.brokers, self._process.instance))
        self._log.info("relaying the catalogue")
        while not self.stopping.is_set():
            began_s = time.monotonic()
            topic = broker.describe(admin, [PRODUCTS])[PRODUCTS]
            self._compare(connection, topic)
            now_s = time.monotonic()
            until_s = now_s + max(COMPARE_EVERY_S, (now_s - began_s) / COMPARE_SHARE_MAX)
            self._publish_changes(connection, producer, TopicWatch(admin, {PRODUCTS: topic}), until_s)

    def _compare(self, connection: Conn, topic: Topic) -> None:
        """Have published again what the topic lacks. Raises `LossDetected` when the database lacks something."""
        if self.missing():
            self.report(f"comparing topic {PRODUCTS!r} with the database")
        published = catalogue.Published()
        for records in catalogue.read(self._process.brokers, f"{self._process.instance}-relay", topic):
            for key, product in records:
                published.apply(key, product)
            relay_store.keep_alive(connection)
            if self.stopping.is_set():
                return
        difference = catalogue.compare(published, relay_store.entries(connection))
        catalogue.check_not_behind(difference)
        if difference.unpublished:
            self._log.warning(
                "topic {!r} lacks products that were published: publishing them again",
                PRODUCTS,
                products=len(difference.unpublished),
            )
            relay_store.publish_again(connection, difference.unpublished)
        self.report_no_loss()
        self.report("")

    def _publish_changes(self, connection: Conn, producer: Producer, watch: TopicWatch, until_s: float) -> None:
        """Publish what changes, until that time or until the topic has been made anew."""
        while not self.stopping.is_set() and time.monotonic() < until_s:
            changes = relay_store.changes(connection, limit=BATCH_ROWS_MAX)
            if changes:
                publish(producer, changes)
                relay_store.mark_published(connection, changes)
                metrics.published.labels(NAME).inc(len(changes))
                self._log.info("catalogue published", products=len(changes))
            if len(changes) < BATCH_ROWS_MAX:
                self._woken.wait(POLL_S)
                self._woken.clear()
            try:
                watch.check(time.monotonic())
            except LossDetected:
                self._log.warning("topic {!r} is another one now: publishing the catalogue to it", PRODUCTS)
                return


def fence(process: Process) -> Producer:
    """A producer whose records the broker accepts until the next one is made; it refuses those of earlier ones."""
    producer = Producer(
        {
            **producer_config(process.brokers, process.instance, linger_ms=0),
            "transactional.id": NAME,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        }
    )
    producer.init_transactions(KAFKA_TIMEOUT_S)
    return producer


def publish(producer: Producer, changes: Sequence[Change]) -> None:
    """Write the changes in one transaction. Returns when the log has all of them.

    Raises `Transient` or `KafkaException`. The log then has none of them, or all, and they will be published again.
    """
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if failure := failure_of(error, message):
            failed.append(failure)

    producer.begin_transaction()
    for product, at in changes:
        event = product_changed(product, at=at)
        producer.produce(PRODUCTS, encode(event), product.product_id.encode(), on_delivery=delivered)
    producer.commit_transaction(KAFKA_TIMEOUT_S)
    if failed:
        raise Transient(f"{len(failed)} products were not acknowledged: {failed[0].str()}")
