"""Tells the log what the catalogue says: each change of a product becomes a `product.changed` in the topic `products`.

A row is published while its `version` is ahead of its `published_version`, and marked when the log has it. A crash in
between publishes it again: same version, same event id.

The topic is compacted, so the last record of a product must be the one with its highest version, or compaction would
throw the newer price away and keep the older one. Two relays must therefore never write out of turn:

- Of all instances the one with the advisory lock relays. It is the transaction's, so that PostgreSQL takes it from a
  process that froze or vanished. No row is locked meanwhile: orders do not wait for Kafka's answer to the relay, and
  the relay does not wait for products that are always being sold.
- A process that lost the lock does not know it yet, and may have a record under way. So each round begins by taking the
  transactional id from whoever had it, after which the broker refuses his records and drops an unfinished transaction
  (KIP-98, "zombie fencing"). Lock, fence, read, publish: what a fenced relay had read, it read before its successor
  got the lock, and nothing of it can come after what the successor writes. Leaving the lock to time, or publishing
  again after a late record, would leave a gap for a process that dies just then.

Readers have to read committed records only (librdkafka's default), and the end of the log is a marker, not a record.
"""

import threading
from collections.abc import Sequence
from typing import Final

from confluent_kafka import KafkaError, Message, Producer
from loguru import logger

from common import metrics
from common.backoff import delays_s
from common.config import Process
from common.errors import Failure, Transient, classify, describe
from common.events import PRODUCTS, encode, product_changed
from common.kafka import producer_config
from common.postgres import IDLE_IN_TRANSACTION_TIMEOUT_MS, Conn, connect
from inventory import store
from inventory.store import Change

NAME: Final = "inventory-relay"
POLL_S: Final = 0.2
"""An order may name a product within a second of its PUT."""
BATCH_ROWS_MAX: Final = 1_000
# Fencing and committing wait for Kafka inside a transaction of PostgreSQL, which ends a session that idles too long.
KAFKA_TIMEOUT_S: Final = 0.4 * IDLE_IN_TRANSACTION_TIMEOUT_MS / 1000
# For so long an unfinished transaction of a vanished relay can keep readers from what follows it, at most.
TRANSACTION_TIMEOUT_MS: Final = 10_000


class Relay:
    """Publishes the catalogue's changes until stopped. A `common.server.Task`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=NAME, daemon=True)
        self._missing = "not started"
        self._log = logger.bind(group=NAME)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the round in hand and return."""
        self._stopping.set()
        self._thread.join()

    def missing(self) -> list[str]:
        """Why changes of the catalogue are not published: empty when they are."""
        return [f"{NAME}: {self._missing}"] if self._missing else []

    def _run(self) -> None:
        delays = delays_s()
        while not self._stopping.is_set():
            try:
                with connect(self._process.database_url, self._process.instance) as connection:
                    while not self._stopping.is_set():
                        published = self._relay(connection)
                        self._missing = ""
                        delays = delays_s()
                        if published < BATCH_ROWS_MAX:
                            self._stopping.wait(POLL_S)
            except Exception as error:
                failure = classify(error)
                metrics.failures.labels(NAME, failure.value).inc()
                self._missing = describe(error)
                if failure is not Failure.TRANSIENT:
                    self._log.opt(exception=error).critical("stopped, waiting for an operator: {}", describe(error))
                    return
                self._log.warning("starting over: {}", describe(error))
                self._stopping.wait(next(delays))
        self._missing = "stopped"

    def _relay(self, connection: Conn) -> int:
        """One round, if it is this instance's turn and there is something to say. Returns how many were published."""
        with connection.transaction():
            if not store.lock_for_relay(connection) or not store.has_changes(connection):
                return 0
            producer = self._fence()
            changes = store.changes(connection, limit=BATCH_ROWS_MAX)
            publish(producer, changes)
            store.mark_published(connection, changes)
        metrics.published.labels(NAME).inc(len(changes))
        self._log.info("catalogue published", products=len(changes))
        return len(changes)

    def _fence(self) -> Producer:
        """A producer that is the only one whose records the broker takes."""
        producer = Producer(
            {
                **producer_config(self._process.bootstrap_servers, self._process.instance, linger_ms=0),
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
