"""`python -m ops.topics create|list|trim`: the topics, who reads them and how far, and the end of what all have read.

create   make the topics that are missing; running it again changes nothing
list     topics and partitions; consumer groups with members and lag
trim     delete the records that every group has passed; nothing else ever deletes one (--dry-run: only say)
"""

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from common.config import Env
from common.consume.positions import Partition, committed_offsets, log_bounds
from common.errors import Fatal
from common.events import PRODUCTS, READERS
from common.kafka import client_config

TIMEOUT_S = 15.0
WAIT_S = 60.0
# The broker's own time, and no limit: a wrong clock must not delete orders that nobody has read.
KEPT = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "-1",
    "retention.bytes": "-1",
}
COMPACTED = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": "3600000",
}


def create(admin: AdminClient, partitions: int, replicas: int) -> None:
    """Make the missing topics. Raises `Fatal` when one exists with another partition count."""
    # With acks=all, a record is acknowledged when so many have it: all but one, or the one there is.
    in_sync = {"min.insync.replicas": str(max(1, replicas - 1))}
    wanted = [NewTopic(name, partitions, replicas, config={**KEPT, **in_sync}) for name in READERS]
    # The catalogue is small and each api reads all of it: one partition, one order.
    wanted.append(NewTopic(PRODUCTS, 1, replicas, config={**COMPACTED, **in_sync}))
    for name, future in admin.create_topics(wanted, request_timeout=TIMEOUT_S).items():
        try:
            future.result()
            print(f"topics: {name} created")
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    _await_leaders(admin, [topic.topic for topic in wanted])
    for name in READERS:
        found = len(admin.list_topics(name, timeout=TIMEOUT_S).topics[name].partitions)
        if found != partitions:
            raise Fatal(
                f"topics: {name} has {found} partitions, TOPIC_PARTITIONS is {partitions}: a customer's orders would "
                "change partition; keep the count a topic was created with"
            )


def _await_leaders(admin: AdminClient, names: Sequence[str]) -> None:
    """A topic just created is not at once known to every request, nor led in every partition."""
    until = time.monotonic() + TIMEOUT_S
    while missing := [name for name in names if not _is_led(admin, name)]:
        if time.monotonic() > until:
            raise Fatal(f"topics: created but without leaders after {TIMEOUT_S:.0f} s: {missing}")
        time.sleep(0.1)


def _is_led(admin: AdminClient, name: str) -> bool:
    topic = admin.list_topics(timeout=TIMEOUT_S).topics.get(name)
    return topic is not None and all(partition.leader >= 0 for partition in topic.partitions.values())


def bounds(admin: AdminClient) -> dict[Partition, tuple[int, int]]:
    """The first offset, and the one after the last, of every partition of our topics."""
    known = admin.list_topics(timeout=TIMEOUT_S).topics
    ours = [known[name] for name in (*READERS, PRODUCTS) if name in known]
    return log_bounds(admin, [Partition(str(topic.topic), number) for topic in ours for number in topic.partitions])


def committed(servers: str, group: str, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """The offsets that a consumer group has committed, asked as a consumer that joins nothing."""
    consumer = Consumer({**client_config(servers, "topics"), "group.id": group, "enable.auto.commit": False})
    try:
        return committed_offsets(consumer, partitions, TIMEOUT_S)
    finally:
        consumer.close()


def show(admin: AdminClient, servers: str) -> None:
    """Print the topics and the groups."""
    ends = bounds(admin)
    table(
        ("topic", "partitions", "records", "first", "end"),
        [
            (topic, len(of), sum(e - f for f, e in of), min(f for f, _ in of), max(e for _, e in of))
            for topic in (*READERS, PRODUCTS)
            if (of := [b for p, b in ends.items() if p.topic == topic])
        ],
    )
    print()
    groups = sorted({group for readers in READERS.values() for group in readers})
    members = _members(admin, groups)
    rows = []
    for group in groups:
        at = committed(servers, group, (p for p in ends if group in READERS.get(p.topic, ())))
        for topic, readers in READERS.items():
            if group in readers:
                lags = [end - max(first, at.get(p, 0)) for p, (first, end) in ends.items() if p.topic == topic]
                rows.append((group, members.get(group, 0), topic, sum(lags), max(lags, default=0)))
    table(("group", "members", "topic", "lag", "lag of the furthest behind"), rows)


def _members(admin: AdminClient, groups: Sequence[str]) -> dict[str, int]:
    found = {}
    for group, future in admin.describe_consumer_groups(list(groups), request_timeout=TIMEOUT_S).items():
        try:
            found[group] = len(future.result().members)
        except KafkaException:
            found[group] = 0  # never seen by the broker, so nobody is in it
    return found


def trim(admin: AdminClient, servers: str, *, dry_run: bool) -> None:
    """Delete, of each partition, what every group that must read it has passed. Raises `Fatal` if one never came."""
    ends = bounds(admin)
    passed = {
        group: committed(servers, group, (p for p in ends if group in READERS.get(p.topic, ())))
        for group in {group for readers in READERS.values() for group in readers}
    }
    until: list[TopicPartition] = []
    records = 0
    for partition, (first, end) in ends.items():
        if partition.topic not in READERS or first == end:
            continue
        offsets = {group: passed[group].get(partition) for group in READERS[partition.topic]}
        if absent := sorted(group for group, offset in offsets.items() if offset is None):
            raise Fatal(f"topics: {partition} has never been read by {', '.join(absent)}: nothing was deleted")
        keep_from = min(offset for offset in offsets.values() if offset is not None)
        if keep_from > first:
            until.append(TopicPartition(partition.topic, partition.number, keep_from))
            records += keep_from - first
    if until and not dry_run:
        for future in admin.delete_records(until, request_timeout=TIMEOUT_S).values():
            future.result()
    print(f"topics: {records} records {'would be' if dry_run else 'were'} deleted from {len(until)} partitions")


def rewind(admin: AdminClient, topic: str) -> None:
    """Set back what the groups have committed of a topic to its beginning: an offset that outlived its topic says
    nothing of the one that was created anew. Positions stay. Raises `Fatal` while a group has members."""
    numbers = admin.list_topics(topic, TIMEOUT_S).topics[topic].partitions
    for group in READERS[topic]:
        wanted = [TopicPartition(topic, number, 0) for number in numbers]
        [future] = admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)]).values()
        try:
            errors = [done.error for done in future.result().topic_partitions if done.error is not None]
        except KafkaException as error:
            errors = [error.args[0]]
        if errors:
            raise Fatal(f"topics: {group} cannot be rewound: {errors[0].str()}; is it stopped?")
        print(f"topics: {group} begins at the start of {topic} again")


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows in columns, numbers to the right."""
    cells = [tuple(header), *(tuple(str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    for row in cells:
        print("  ".join(c.rjust(w) if c.isdigit() else c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _connect(servers: str) -> AdminClient:
    """A client of a broker that answers, waiting up to `WAIT_S` for it to come up. Raises `Fatal`."""
    admin = AdminClient(client_config(servers, "topics"))
    try:
        admin.list_topics(timeout=WAIT_S)
    except KafkaException as error:
        raise Fatal(f"topics: cannot reach Kafka at {servers} after {WAIT_S:.0f} s; is it up? try 'just up'") from error
    return admin


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="topics", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create")
    commands.add_parser("list")
    commands.add_parser("trim").add_argument("--dry-run", action="store_true")
    commands.add_parser("rewind").add_argument("topic", choices=sorted(READERS))
    chosen = parser.parse_args(arguments)
    env = Env("topics")
    servers = env.text("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092")
    admin = _connect(servers)
    match chosen.command:
        case "create":
            create(
                admin,
                env.integer("TOPIC_PARTITIONS", 6, least=1, most=1_000),
                env.integer("TOPIC_REPLICAS", 1, least=1, most=9),
            )
        case "list":
            show(admin, servers)
        case "trim":
            trim(admin, servers, dry_run=chosen.dry_run)
        case "rewind":
            rewind(admin, chosen.topic)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Fatal, KafkaException) as error:
        sys.exit(str(error))
