"""The same as `examples.notify`, for teams who take only the events: a consumer with confluent-kafka alone.

    python examples/notify_plain.py 127.0.0.1:9092 mails.db

Each outcome of an order becomes a row in a SQLite file. An event may come more than once: after a crash of this
program, after a rebalance, and because Tandem publishes some again after a crash of its own. Its id is then the same,
so the row is inserted under that id or not at all. The offset is committed only after the row: what was not stored
comes again.

What a reader may rely on: the events of a customer come in order, since they have one partition; a reader must ignore
types and fields that it does not know.
"""

import json
import signal
import sqlite3
import sys
from collections.abc import Iterable
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message

KINDS = {"order.confirmed", "order.rejected", "order.cancelled"}
BATCH_RECORDS = 500
POLL_S = 0.5

SCHEMA = """
    CREATE TABLE IF NOT EXISTS mails (
      event_id TEXT PRIMARY KEY, order_id TEXT NOT NULL, customer_id TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT,
      sent_at TEXT
    );
    CREATE TABLE IF NOT EXISTS unreadable (partition INTEGER, "offset" INTEGER, value BLOB, problem TEXT);
"""
INSERT = "INSERT INTO mails VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT (event_id) DO NOTHING"


def row(event: dict[str, Any]) -> tuple[Any, ...]:
    data = event["data"]
    return event["id"], data["order_id"], data["customer_id"], event["type"], data.get("reason")


def store(database: sqlite3.Connection, messages: Iterable[Message]) -> None:
    """Store a batch in one transaction. Anybody may write anything to a topic: what cannot be read is set aside, and
    stops nobody else's mail."""
    with database:
        for message in messages:
            try:
                event = json.loads(message.value() or b"")
                if event["type"] in KINDS:
                    database.execute(INSERT, row(event))
            except (ValueError, KeyError, TypeError, sqlite3.InterfaceError, sqlite3.IntegrityError) as problem:
                where = (message.partition(), message.offset(), message.value(), repr(problem))
                database.execute("INSERT INTO unreadable VALUES (?, ?, ?, ?)", where)


def run(servers: str, path: str, group: str = "notify-plain") -> None:
    database = sqlite3.connect(path)
    database.executescript(SCHEMA)
    consumer = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",  # a new group begins with the first outcome, not with the next one
            "enable.auto.offset.store": False,  # only `store_offsets` says what may be committed
        }
    )
    consumer.subscribe(["outcomes"])
    stopped: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: stopped.append(number))
    try:
        while not stopped:
            messages = consumer.consume(BATCH_RECORDS, POLL_S)
            for message in messages:
                if (error := message.error()) is not None:
                    raise KafkaException(error)
            store(database, messages)
            for message in messages:
                try:
                    consumer.store_offsets(message)
                except KafkaException as error:
                    print("the partition has moved, its new reader gets this again:", error, file=sys.stderr)
    finally:
        consumer.close()  # commits what was stored
        database.close()


if __name__ == "__main__":
    run(*sys.argv[1:])
