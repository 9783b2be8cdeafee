"""Tells the log what the catalogue says: each change of a product becomes a `product.changed` in the topic `products`.

A row is published while its `version` is ahead of its `published_version`, and marked when the log has it. A crash in
between publishes it again: same version, same event id.

The topic is compacted, so the last record of a product must be the one with its highest version, or compaction would
throw the newer price away and keep the older one. Two relays must therefore never write out of turn:

- Of all instances the one whose session has the advisory lock relays. PostgreSQL ends a session that asks nothing for
  `IDLE_SESSION_TIMEOUT_S`, so a process that froze or vanished loses the lock. No row is locked while Kafka answers:
  orders do not wait for the relay, nor the relay for products that are always being sold.
- A process that lost the lock does not know it yet, and may have a record under way. So a term begins by taking the
  transactional id from whoever had it, after which the broker refuses his records and drops an unfinished transaction
  (KIP-98, "zombie fencing"). Lock, fence, read, publish: what a fenced relay had read, it read before its successor
  got the lock, and nothing of it can come after what the successor writes. Trusting to time, or publishing again after
  a late record, would leave a gap for a process that dies just then.

Readers have to read committed records only (librdkafka's default), and the end of the log is a marker, not a record.
"""

from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, Message, Producer

from common import metrics
from common.codec import encode
from common.config import Process
from common.errors import Transient
from common.events import PRODUCTS, product_changed
from common.kafka.clients import producer_config
from common.postgres import Conn, connect
from common.worker import Worker
from inventory import store
from inventory.store import Change

NAME: Final = "inventory-relay"
POLL_S: Final = 0.2
"""An order may name a product within a second of its PUT."""
BATCH_ROWS_MAX: Final = 1_000
# A relay asks for changes every POLL_S, and in between waits for Kafka at most.
KAFKA_TIMEOUT_S: Final = 4.0
IDLE_SESSION_TIMEOUT_S: Final = 10
# For so long an unfinished transaction of a vanished relay can keep readers from what follows it, at most.
TRANSACTION_TIMEOUT_MS: Final = 10_000


class Relay(Worker):
    """Publishes the catalogue's changes until stopped."""

    def __init__(self, process: Process) -> None:
        super().__init__(NAME, self._run_session)
        self._process = process

    def _run_session(self) -> None:
        with connect(self._process.database_url, self._process.instance) as connection:
            self._serve_term(connection)

    def _serve_term(self, connection: Conn) -> None:
        """Wait for the lock, then relay until told to stop. Raises whatever ends the term, and with it the session."""
        connection.autocommit = True
        store.limit_idleness(connection, seconds=IDLE_SESSION_TIMEOUT_S)
        while not store.lock_for_relay(connection):
            self.report("")  # another instance does the work
            if self.stopping.wait(POLL_S):
                return
        producer = fence(self._process)
        self.report("")
        self._log.info("relaying the catalogue")
        while not self.stopping.is_set():
            changes = store.changes(connection, limit=BATCH_ROWS_MAX)
            if changes:
                publish(producer, changes)
                store.mark_published(connection, changes)
                metrics.published.labels(NAME).inc(len(changes))
                self._log.info("catalogue published", products=len(changes))
            if len(changes) < BATCH_ROWS_MAX:
                self.stopping.wait(POLL_S)


def fence(process: Process) -> Producer:
    """A producer that is the only one whose records the broker takes, until another one is made."""
    producer = Producer(
        {
            **producer_config(process.bootstrap_servers, process.instance, linger_ms=0),
            "transactional.id": NAME,
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
        }
    )
    producer.init_transactions(KAFKA_TIMEOUT_S)
    return producer


def publish(producer: Producer, changes: Sequence[Change]) -> None:
    """Write the changes in one transaction. Returns when the log has all of them.

    Raises `Transient`, or `KafkaException`: then the log has none, or it has all and they will be published again.
    """
    failed: list[KafkaError] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        if error is not None:
            failed.append(error)

    producer.begin_transaction()
    for product, at in changes:
        event = product_changed(product, at=at)
        producer.produce(PRODUCTS, encode(event), product.product_id.encode(), on_delivery=delivered)
    producer.commit_transaction(KAFKA_TIMEOUT_S)
    if failed:
        raise Transient(f"{len(failed)} products were not acknowledged: {failed[0].str()}")
