"""`python -m ops.replay payment|inventory|order --why …`: an operator's consent to take the log in again.

It is asked for when a service names on /readyz that its database has lost transactions, as when it was restored from a
backup.

1. No instance may be in the consumer group. None is: they look before they join. (If one is, the database was restored
   under it: stop the service.)
2. What the service had published comes back from the log: its decisions, in one transaction, as they were. A published
   decision is a decision; taken anew it could differ from what the others were told. For inventory, the catalogue too.
3. The committed offsets of the group are moved back to the database's positions. Within 10 s the service goes on by
   itself, finds what is decided, answers it again, and decides what it had never published.

Being killed half-way, or run again, is harmless: 2 is one transaction that finds nothing to do the second time, and
until 3 is done the service does not start. `--dry-run` says what would be done. Each replay is recorded in the table
`replays` of the service with who, when and why.

What the log does not have does not come back, and has to be entered again:

- payment: deposits made after the backup. inventory: restocks made after the backup. If published decisions rest on
  them, nothing is done, and they are listed; the service takes them over HTTP while it waits. `--cover` enters instead
  the least that the published decisions prove, and says so; enter only what is missing beyond that.
- order: the idempotency keys of requests made after the backup: a retry of one of those orders again.
- all: the operator's acts on parked events. What was parked at the time of the backup is parked again: `just dlq`.
- Decisions that were published before the beginning of a trimmed log: do not trim beyond the oldest backup you keep.
"""

import argparse
import getpass
import sys
from collections.abc import Sequence
from typing import Final

import psycopg
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from common.config import Env
from common.consume.positions import REQUEST_TIMEOUT_S, Partition, Stored, start_offset
from common.errors import Fatal, Transient
from common.events import INVENTORY, ORDERS, PAYMENTS
from common.kafka import client_config
from common.postgres import Conn, connect, transaction
from ops.replay import inventory, order, payment
from ops.replay.log import CLIENT_ID, Log
from ops.replay.report import Restored

WAIT_S: Final = 30.0
GROUPS: Final = {"payment": "payment", "inventory": "inventory", "order": "order-saga"}
READ: Final = {"payment": (ORDERS,), "inventory": (ORDERS,), "order": (ORDERS, PAYMENTS, INVENTORY)}
NOT_BROUGHT_BACK: Final = {
    "payment": "deposits made after the backup",
    "inventory": "restocks made after the backup",
    "order": "idempotency keys of requests made after the backup",
}

# The log is read within the transaction, which may take minutes.
_NO_TIMEOUTS: Final = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0"
_POSITIONS: Final = """
    SELECT topic, partition, topic_id, next_offset FROM positions WHERE topic = ANY(%s)
    ORDER BY topic, partition FOR UPDATE
"""
_NUMBER: Final = "SELECT coalesce(max(replay_id), 0) + 1 FROM replays"
_RECORD: Final = "INSERT INTO replays (replay_id, actor, why, decisions) VALUES (%s, %s, %s, %s)"


def replay(connection: Conn, log: Log, chosen: argparse.Namespace) -> None:
    """Bring back what was published and move the group back. Raises `Fatal`, and then nothing was changed."""
    service, group = chosen.service, GROUPS[chosen.service]
    with transaction(connection):
        connection.execute(_NO_TIMEOUTS)
        behind = positions_behind(connection, log, service, group)
        if not behind:
            print(f"{service}: no committed offset is ahead of the database: nothing to replay")
            return
        check_empty(log.admin, group)
        for partition, (position, committed) in behind.items():
            print(f"{service}: {partition}: the position is {position}, offset {committed} is committed")
        [number] = connection.execute(_NUMBER).fetchone() or [1]
        restored = restore(connection, log, chosen, cover=f"replay-{number}" if chosen.cover else None)
        connection.execute(_RECORD, (number, chosen.actor, chosen.why, restored.decisions))
        if chosen.dry_run:
            connection.rollback()
    said = f"{service}: {restored.decisions} published decisions brought back"
    print("\n".join([said, *restored.notes]))
    if chosen.dry_run:
        print(f"{service}: dry run: nothing was changed")
        return
    move_back(log.admin, group, {partition: position for partition, (position, _) in behind.items()})
    records = sum(committed - position for position, committed in behind.values())
    print(f"{service}: {records} records of {len(behind)} partitions will be taken in again, within 10 s if it runs")
    print(f"{service}: not brought back: {NOT_BROUGHT_BACK[service]}, acts on parked events")


def restore(connection: Conn, log: Log, chosen: argparse.Namespace, *, cover: str | None) -> Restored:
    match chosen.service:
        case "payment":
            return payment.restore(connection, log, cover=cover)
        case "inventory":
            return inventory.restore(connection, log, cover=cover)
    return order.restore(connection, log)


def check_empty(admin: AdminClient, group: str) -> None:
    """Raises `Fatal` when an instance is in the group."""
    found = admin.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S).result()
    states = {listed.group_id: listed.state.name for listed in found.valid}
    if states.get(group, "EMPTY") not in ("EMPTY", "DEAD"):
        raise Fatal(
            f"replay: the consumer group {group!r} is {states[group]}: the database was restored under a running "
            "instance; stop the service first"
        )


def positions_behind(connection: Conn, log: Log, service: str, group: str) -> dict[Partition, tuple[int, int]]:
    """Of the partitions whose committed offset is ahead of the database: its position and that offset.

    Raises `LossDetected` when the log does not reach back to the positions: then the backup is too old for it.
    """
    topics = log.describe(READ[service])
    stored = {
        Partition(topic, number): Stored(topic_id, offset)
        for topic, number, topic_id, offset in connection.execute(_POSITIONS, (list(READ[service]),)).fetchall()
    }
    committed = log.committed(group, list(stored))
    bounds = log.bounds(list(stored))
    for partition, row in stored.items():
        start_offset(partition, topics[partition.topic].topic_id, row, None, *bounds[partition])
    return {
        partition: (row.next_offset, committed[partition])
        for partition, row in stored.items()
        if committed.get(partition, 0) > row.next_offset
    }


def move_back(admin: AdminClient, group: str, offsets: dict[Partition, int]) -> None:
    """Set the group's committed offsets. Raises `KafkaException`, as when an instance has joined meanwhile."""
    wanted = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
    request = [ConsumerGroupTopicPartitions(group, wanted)]
    for future in admin.alter_consumer_group_offsets(request, request_timeout=REQUEST_TIMEOUT_S).values():
        for done in future.result().topic_partitions:
            if done.error is not None:
                raise KafkaException(done.error)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("service", choices=sorted(GROUPS))
    parser.add_argument("--why", required=True, help="why; it is recorded")
    parser.add_argument("--actor", default=getpass.getuser(), help="who; default: the user")
    parser.add_argument("--cover", action="store_true", help="enter missing deposits or restocks, as far as proved")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    chosen = parse(arguments)
    env = Env("replay")
    servers = env.text("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    admin = AdminClient(client_config(servers, CLIENT_ID))
    try:
        admin.list_topics(timeout=WAIT_S)
    except KafkaException as error:
        raise Fatal(f"replay: cannot reach Kafka at {servers} after {WAIT_S:.0f} s; is it up? try 'just up'") from error
    with connect(env.text(f"{chosen.service.upper()}_DATABASE_URL"), CLIENT_ID) as connection:
        replay(connection, Log(servers, admin), chosen)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Fatal, Transient, KafkaException, psycopg.Error) as error:
        sys.exit(str(error))
