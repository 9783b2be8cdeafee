"""`python -m ops.replay payment|inventory|order --why …`: an operator's consent to reading the log again.

A service asks for it on /readyz when its database has lost transactions, as when it was restored from a backup.

1. No instance may be in the consumer group. Normally none is, because an instance checks its positions before it joins.
   (If one is, the database was restored while it ran: stop the service.)
2. Everything that the service had published comes back from the log, in one transaction: deposits, or the catalogue and
   restocks, then its decisions, as they were. A published decision stands; made again, it could differ from what the
   other services have read.
3. The committed offsets of the group are moved back to the database's positions. Within 10 s the service continues by
   itself: it answers decided orders again, and decides those about which it had published nothing.

It is harmless to kill it half-way, or to run it again: step 2 is one transaction that finds nothing to do the second
time, and until step 3 is done the service does not start. `--dry-run` only shows what would be done. Each replay is
recorded in the table `replays` of the service with who, when and why.

The following is not in the log, does not come back, and has to be entered again:

- payment, inventory: deposits and restocks that are not in the topics `deposits` and `restocks`, because an older
  version, a person in psql or the demo data entered them. If published decisions depend on
  them, nothing is done, and they are listed: enter them over HTTP, which works while the service waits. With `--cover`,
  the least that the published decisions prove is entered and printed; enter only what is missing beyond that.
- order: the idempotency keys of requests made after the backup: a retry of one of those orders again.
- all: the operator's acts on parked events. Events that were parked at the time of the backup are parked again: `just
  dlq`.
- Decisions that were published before the beginning of a trimmed log: do not trim beyond the oldest backup you keep.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from common.audit import table as audit
from common.audit.entry import Entry, user_author
from common.config.env import Env
from common.config.kafka import brokers
from common.consume import published
from common.consume.handler import Handler
from common.consume.positions import Stored, start_offset
from common.errors import Fatal
from common.events import OUTCOMES, READS
from common.kafka.broker import REQUEST_TIMEOUT_S, Partition
from common.postgres import Conn, connect, transaction
from inventory.consumer import InventoryHandler
from ops import tool
from ops.log import Log
from ops.replay import entered, inventory, order, payment
from ops.replay.published import Restored
from ops.topics import set_committed
from order.saga.consumer import SagaHandler
from payment.consumer import PaymentHandler

RESTORE: Final = {"payment": payment.restore, "inventory": inventory.restore, "order": order.restore}
HANDLERS: Final[Mapping[str, Callable[[], Handler[Any]]]] = {
    "payment": PaymentHandler,
    "inventory": InventoryHandler,
    "order": SagaHandler,
}
ENTERED: Final[Mapping[str, tuple[Callable[[Conn, Log], list[str]], ...]]] = {
    "payment": (entered.restore_deposits,),
    "inventory": (inventory.restore_catalogue, entered.restore_restocks),
    "order": (),
}
"""What brings back what people have entered, before the decisions that rest on it."""
NOT_BROUGHT_BACK: Final = {
    "payment": "deposits that were entered by an older version",
    "inventory": "restocks that were entered by an older version",
    "order": "idempotency keys of requests made after the backup",
}

# The log is read within the transaction, which may take minutes.
_NO_TIMEOUTS: Final = """
    SET LOCAL statement_timeout = 0; SET LOCAL transaction_timeout = 0;
    SET LOCAL idle_in_transaction_session_timeout = 0
"""
_POSITIONS: Final = """
    SELECT topic, partition, topic_id, next_offset FROM positions WHERE topic = ANY(%s)
    ORDER BY topic, partition FOR UPDATE
"""
_NUMBER: Final = "SELECT coalesce(max(replay_id), 0) + 1 FROM replays"
_RECORD: Final = "INSERT INTO replays (replay_id, actor, why, decisions) VALUES (%s, %s, %s, %s)"


def replay(connection: Conn, log: Log, chosen: argparse.Namespace) -> None:
    """Bring back what was published and move the group back. Raises `Fatal`, and then nothing was changed."""
    service, group = chosen.service, tool.GROUP_OF[chosen.service]
    with transaction(connection):
        connection.execute(_NO_TIMEOUTS)
        notes = [line for enter in ENTERED[service] for line in enter(connection, log)]
        behind = positions_behind(connection, log, group)
        for partition, (position, committed) in behind.items():
            print(f"{service}: {partition}: the position is {position}, offset {committed} is committed")
        [number] = connection.execute(_NUMBER).fetchone() or [1]
        restored = Restored(0)
        if behind or decisions_lost(connection, log, service):
            check_empty(log.admin, group)
            restored = RESTORE[service](connection, log, cover=f"replay-{number}" if chosen.cover else None)
            notes = [f"{restored.decisions} published decisions brought back", *restored.notes, *notes]
        if notes:
            connection.execute(_RECORD, (number, chosen.actor, chosen.why, restored.decisions))
            detail = {"why": chosen.why, "cover": chosen.cover}
            audit.write(connection, user_author(chosen.actor), Entry("replay", f"replay {number}", detail, notes[0]))
        if chosen.dry_run:
            connection.rollback()
    for note in notes:
        print(note if note.startswith(" ") else f"{service}: {note}")
    if not behind and not notes:
        print(f"{service}: no committed offset is ahead of the database: nothing to replay")
    if chosen.dry_run:
        print(f"{service}: dry run: nothing was changed")
    if chosen.dry_run or not behind:
        return
    set_committed(log, group, [TopicPartition(*p, position) for p, (position, _) in behind.items()])
    records = sum(committed - position for position, committed in behind.values())
    print(f"{service}: {records} records of {len(behind)} partitions will be read again, within 10 s if it runs")
    print(f"{service}: not brought back: {NOT_BROUGHT_BACK[service]}, acts on parked events")


def decisions_lost(connection: Conn, log: Log, service: str) -> bool:
    """Whether the database lacks one of the last decisions that its service published, though no offset shows it."""
    handler = HANDLERS[service]()
    last = published.last_events(log.brokers, log.admin, "replay", handler.publishes)
    return bool(handler.lacking(connection, last))


def check_empty(admin: AdminClient, group: str) -> None:
    """Raises `Fatal` when an instance is in the group."""
    groups = admin.list_consumer_groups(request_timeout=REQUEST_TIMEOUT_S).result()
    states = {listed.group_id: listed.state.name for listed in groups.valid}
    if states.get(group, "EMPTY") not in ("EMPTY", "DEAD"):
        raise Fatal(
            f"replay: the consumer group {group!r} is {states[group]}: the database was restored under a running "
            "instance; stop the service first"
        )


def positions_behind(connection: Conn, log: Log, group: str) -> dict[Partition, tuple[int, int]]:
    """The partitions whose committed offset is ahead of the database: its position and that offset.

    Raises `LossDetected` when the log does not reach back to the positions: then the backup is too old for it.
    """
    names = (*READS[group], OUTCOMES)  # which payment by card reads, in payment's place
    topics = log.topics(names)
    stored = {
        Partition(topic, number): Stored(topic_id, offset)
        for topic, number, topic_id, offset in connection.execute(_POSITIONS, ([*names],)).fetchall()
    }
    committed, bounds = log.committed(group, stored), log.bounds(names)
    for partition, row in stored.items():
        start_offset(partition, topics[partition.topic].topic_id, row, None, *bounds[partition])
    return {
        partition: (row.next_offset, committed[partition])
        for partition, row in stored.items()
        if committed.get(partition, 0) > row.next_offset
    }


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("service", choices=sorted(tool.GROUP_OF))
    parser.add_argument("--cover", action="store_true", help="enter missing deposits or restocks, as far as proved")
    tool.add_consent(parser)
    chosen = parser.parse_args(arguments)
    env = Env("replay")
    log = Log(brokers(env), "replay")
    log.wait()
    with connect(env.database_url(f"{chosen.service.upper()}_DATABASE_URL"), "replay") as connection:
        replay(connection, log, chosen)
    return 0


if __name__ == "__main__":
    tool.run(main)
