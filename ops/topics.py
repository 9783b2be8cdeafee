"""`python -m ops.topics create|list|copies|trim|rewind|forget|allow|rotate`: makes, shows and trims the topics.

create   make the topics that are missing, and set again what has been changed in the others; the same for users and
         rights, where the broker asks for them
list     print topics and partitions; consumer groups with members and lag
copies   wait until every copy of every partition is in sync, as before the next of several brokers is restarted
trim     delete the records that every group has passed, and say what that has freed; nothing else ever deletes one
         (--dry-run: only print)
rewind   after a topic was created anew: set the committed offsets of its stopped groups back to its beginning
allow    let a service beside Tandem read what happens to orders, where the broker asks for users
rotate   give every user at the broker a new password
forget   delete the committed offsets of a service beside Tandem that is gone for good: a trim then waits for it no more
"""

import argparse
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from common.config.env import Env
from common.config.kafka import brokers, topic_partitions
from common.errors import Fatal, Transient
from common.events import ORDERS, OUTCOMES, READERS, READS, SAGA, TOPICS
from common.kafka import broker, settings
from common.kafka.broker import Partition, Topic
from common.kafka.grants import fetch_drift
from ops import access, log_dirs, tool
from ops.log import ANSWER_S, Log
from ops.record import record

T = TypeVar("T")

GROUPS = sorted(READS)
MISSING = "missing"
TIMEOUT_S = 15.0
START_S = 60.0
"""A broker that has just been started may need this long to answer."""
COPIES_WITHIN_S = 180.0
"""A broker that was away may need this long to read what it lacks."""
SEGMENT_BYTES = int(settings.KEPT["segment.bytes"])
CLOCKS_MS = 10_000
"""By how much the clocks of two brokers may differ: one stamps an order, another its outcome."""
FREED_WITHIN_S = 15.0
"""The broker looks for segments to delete every 10 s, and from 30 s after its start."""


def create(log: Log, partitions: int, replicas: int) -> None:
    """Make the missing topics, and set the others as they must be. Raises `Fatal` when one exists with another
    partition count, or with fewer copies."""
    admin = log.admin
    counts = {topic: settings.partitions_of(topic, partitions) for topic in TOPICS}
    topics = [NewTopic(name, count, replicas, config=settings.wanted(name, replicas)) for name, count in counts.items()]
    for name, future in admin.create_topics(topics, request_timeout=TIMEOUT_S).items():
        try:
            future.result()
            print(f"topics: {name} created")
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
    _await_leaders(admin, [topic.topic for topic in topics])
    names = [*counts]
    if replicas > 1:
        log.committed(GROUPS[0], [Partition(ORDERS, 0)])  # Kafka makes its topic of offsets when it is first asked
        names.append(settings.OFFSETS)
    drift = _when_known(lambda: settings.fetch_drift(admin, names))
    settings.mend(admin, drift)
    for mended in drift:
        print(f"topics: {mended.topic}: {mended.setting} set to {mended.wanted}, it was {mended.value}")
    check_made(_when_known(lambda: broker.describe(admin, counts)).values(), partitions, replicas)


def check_made(topics: Iterable[Topic], partitions: int, replicas: int) -> None:
    """Raises `Fatal` when a topic that was there before is not as it would be made now."""
    for topic in topics:
        if topic.partitions != (expected := settings.partitions_of(topic.name, partitions)):
            raise Fatal(
                f"topics: {topic.name} has {topic.partitions} partitions, TOPIC_PARTITIONS asks for {expected}: a "
                "customer's orders would change partition; keep the count a topic was created with"
            )
        if 0 < topic.replicas < replicas:
            raise Fatal(
                f"topics: {topic.name} has {topic.replicas} copies of each record, TOPIC_REPLICAS is {replicas}: with "
                "a broker's disk, orders would be lost; Kafka's kafka-reassign-partitions.sh makes further copies"
            )


def _when_known(query: Callable[[], T]) -> T:
    """What a query says of topics that were just made: the broker that answers may not know yet what another one has
    made. Raises `Transient` with the last answer, after `TIMEOUT_S`, and `Fatal`."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return query()
        except Transient:
            if time.monotonic() > until:
                raise
        time.sleep(0.1)


def _await_leaders(admin: AdminClient, names: Sequence[str]) -> None:
    """Wait until every request sees the new topics and every partition has a leader. Raises `Fatal`."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        topics = admin.list_topics(timeout=TIMEOUT_S).topics
        missing = [n for n in names if n not in topics or any(p.leader < 0 for p in topics[n].partitions.values())]
        if not missing:
            return
        if time.monotonic() > until:
            raise Fatal(f"topics: created but without leaders after {TIMEOUT_S:.0f} s: {missing}")
        time.sleep(0.1)


def await_copies(admin: AdminClient) -> None:
    """Return when every copy of every partition is in sync. Raises `Fatal` after `COPIES_WITHIN_S`."""
    until = time.monotonic() + COPIES_WITHIN_S
    while missing := missing_copies(admin):
        if time.monotonic() > until:
            named = ", ".join(f"{count} of {topic}" for topic, count in missing.items())
            raise Fatal(f"topics: copies are not in sync after {COPIES_WITHIN_S:.0f} s: {named}; is a broker away?")
        time.sleep(0.5)


def missing_copies(admin: AdminClient) -> dict[str, int]:
    """How many copies of its partitions are not in sync, for each topic that lacks any."""
    topics = admin.list_topics(timeout=TIMEOUT_S).topics
    partitions = {name: topic.partitions.values() for name, topic in topics.items()}
    missing = {name: sum(len(p.replicas) - len(p.isrs) for p in of) for name, of in partitions.items()}
    return {name: count for name, count in missing.items() if count}


def show(log: Log) -> None:
    """Print the topics and the groups."""
    existing = log.admin.list_topics(timeout=TIMEOUT_S).topics
    bounds = log.bounds([name for name in TOPICS if name in existing])
    sizes = {topic: [b for p, b in bounds.items() if p.topic == topic] for topic in TOPICS}
    tool.print_table(
        ("topic", "partitions", "records", "first", "end"),
        [
            (topic, len(of), sum(e - f for f, e in of), min(f for f, _ in of), max(e for _, e in of))
            if of
            else (topic, MISSING, "-", "-", "-")
            for topic, of in sizes.items()
        ],
    )
    if missing := [topic for topic, of in sizes.items() if not of]:
        print(f"{', '.join(missing)}: missing; 'just topics create' makes it, and OPERATIONS says what was lost")
    for drift in log.drift([topic for topic, of in sizes.items() if of]):
        print(drift)
    if access.is_asked_for(log):
        for strayed in fetch_drift(log.admin):
            print(strayed)
    print()
    clients = {group: [member.client_id for member in of_group] for group, of_group in log.members().items()}
    rows = []
    for group in GROUPS:
        committed = log.committed(group, bounds)
        for topic in READS[group]:
            lags = [end - max(first, committed.get(p, 0)) for p, (first, end) in bounds.items() if p.topic == topic]
            lag = (sum(lags), max(lags)) if lags else (MISSING, MISSING)
            rows.append((group, len(clients.get(group, ())), topic, *lag))
    tool.print_table(("group", "members", "topic", "lag", "largest lag of a partition"), rows)
    for group, names in clients.items():
        for stranger in strangers(group, names):
            print(
                f"{group}: client {stranger!r} is in this group, and is not named like an instance of {group}. End it: "
                "it takes partitions away, and what it commits passes for lag 0 and for lost transactions"
            )


def strangers(group: str, clients: Sequence[str]) -> list[str]:
    """The members that another program has put into the group: an instance is named after its service."""
    return [client for client in clients if not client.startswith(f"{group}-")]


def trim(log: Log, env: Env, *, dry_run: bool) -> None:
    """Delete what every group that reads it has passed, and the outcomes of orders that are deleted. Raises `Fatal` if
    a group has never read a partition, or if it cannot be recorded."""
    # The outcomes first: each of them then belongs to an order that is within the bounds of the orders.
    bounds = {**log.bounds([OUTCOMES]), **log.bounds([topic for topic in READERS if topic != OUTCOMES])}
    committed = {group: log.committed(group, bounds) for group in GROUPS}
    others = _others(log, bounds)
    keep_from: dict[Partition, int] = {}
    for partition, (first, end) in bounds.items():
        if first == end:
            continue
        offsets = {group: committed[group].get(partition) for group in READERS[partition.topic]}
        if absent := sorted(group for group, offset in offsets.items() if offset is None):
            raise Fatal(f"topics: {partition} has never been read by {', '.join(absent)}: nothing was deleted")
        offsets |= {group: read.get(partition, first) for group, read in others[partition.topic].items()}
        keep_from[partition] = min((offset for offset in offsets.values() if offset is not None), default=end)
    for partition, offset in _outcomes_of_kept(log, bounds, keep_from).items():
        keep_from[partition] = min(keep_from[partition], offset)
    until = [
        TopicPartition(*partition, offset) for partition, offset in keep_from.items() if offset > bounds[partition][0]
    ]
    records = sum(tp.offset - bounds[Partition(tp.topic, tp.partition)][0] for tp in until)
    if dry_run or not until:
        print(f"topics: {records} records {'would be' if dry_run else 'were'} deleted from {len(until)} partitions")
        return
    deleted = {f"{t.topic}/{t.partition}": t.offset for t in until}
    record(env, "trim", ", ".join(READERS), {"until": deleted}, f"{records} records are being deleted")
    sizes = _sizes(log)
    before = next(sizes)
    for future in log.admin.delete_records(until, request_timeout=TIMEOUT_S).values():
        future.result()
    print(f"topics: {records} records were deleted from {len(until)} partitions", flush=True)
    _report_freed(before, sizes)


def _outcomes_of_kept(
    log: Log, bounds: Mapping[Partition, tuple[int, int]], keep_from: Mapping[Partition, int]
) -> dict[Partition, int]:
    """Where the outcomes of kept orders begin at the earliest, for each partition of `outcomes` that has any: they go
    by the time of the first order that is kept, since no service of Tandem's reads them."""
    begin: dict[Partition, int] = {}
    for partition in keep_from:
        orders = Partition(ORDERS, partition.number)
        if partition.topic != OUTCOMES or orders not in keep_from:
            continue
        first, end = keep_from[orders], bounds[orders][1]
        for kept in log.read({orders: (first, end)}):
            at_ms = kept.timestamp()[1] - CLOCKS_MS
            begin[partition] = log.offsets_at({partition: bounds[partition]}, at_ms)[partition]
            break
    return begin


def _others(log: Log, bounds: Collection[Partition]) -> dict[str, dict[str, dict[Partition, int]]]:
    """By topic: what groups have committed there of which Tandem does not know that they read it. Services beside it
    read each record too. Raises `Transient` if the broker does not list all groups: what one of them has yet to read
    would be deleted."""
    listed = log.admin.list_consumer_groups(request_timeout=TIMEOUT_S).result()
    if listed.errors:
        raise Transient(f"topics: not all consumer groups are listed ({listed.errors[0]}): nothing was deleted")
    others: dict[str, dict[str, dict[Partition, int]]] = {topic: {} for topic in READERS}
    for group in sorted(group.group_id for group in listed.valid):
        for partition, offset in log.committed(group, bounds).items():
            if group not in READERS[partition.topic]:
                others[partition.topic].setdefault(group, {})[partition] = offset
    for group in sorted({group for groups in others.values() for group in groups}):
        gone = "examples/README.md says how" if group in GROUPS else f"'just topics forget {group}'"
        print(f"topics: what {group!r} has not read yet is kept; if it is gone for good: {gone}")
    return others


def _sizes(log: Log) -> Iterator[int | None]:
    """The bytes that the topics take: now, and then once a second for `FREED_WITHIN_S`; None when the broker does not
    say, which does not keep records from being deleted."""
    until = time.monotonic() + FREED_WITHIN_S
    while time.monotonic() < until:
        try:
            yield log_dirs.bytes_of(log.brokers, log.admin, READERS)
        except Transient as error:
            print(f"topics: {error}", file=sys.stderr)
            yield None
        time.sleep(1)


def _report_freed(before: int | None, sizes: Iterable[int | None]) -> None:
    """Wait until the broker has deleted the segments, and print what that has freed. New records come all the time, so
    it is the sum of what the size has dropped by. Topics that are smaller than a segment have hardly any to delete."""
    when_closed = "when it is closed: at 16 MiB or after a day, when another record comes"
    if before is not None and before < SEGMENT_BYTES:
        print(f"topics: {mebibytes(before)} are in use; the broker frees a segment {when_closed}")
        return
    freed, size = 0, before
    for now in sizes:
        if now is None or size is None:
            return
        dropped, size = max(0, size - now), now
        if freed and not dropped:
            break
        freed += dropped
    if before is not None and size is not None:
        print(f"topics: {mebibytes(freed)} of {mebibytes(before)} are freed, {mebibytes(size)} are in use")
        if freed < before / 2:
            print(f"topics: the broker frees the newest segment of each partition {when_closed}")


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


def rewind(log: Log, env: Env, topic: str) -> None:
    """Set the committed offsets of the topic's groups back to its beginning. An offset that outlived its topic says
    nothing about the one that was created anew. Positions stay. Raises `Fatal` while a group has members, or if it
    cannot be recorded."""
    groups = ", ".join(READERS[topic])
    record(env, "rewind", f"topic {topic}", {}, f"{groups} begin at its start again")
    partitions = broker.all_partitions(log.topics([topic]).values())
    for group in READERS[topic]:
        try:
            set_committed(log, group, [TopicPartition(*partition, 0) for partition in partitions])
        except KafkaException as error:
            raise Fatal(f"topics: {group} cannot be rewound: {error.args[0].str()}; is it stopped?") from error
        print(f"topics: {group} begins at the start of {topic} again")


def forget(admin: AdminClient, env: Env, group: str) -> None:
    """Delete what a group has committed. Raises `Fatal` for Tandem's own, while the group has members, and if it cannot
    be recorded."""
    if group in GROUPS:
        raise Fatal(f"topics: {group} is Tandem's own, and reads on from its offsets")
    record(env, "forget", f"group {group}", {}, "its offsets are being deleted")
    [future] = admin.delete_consumer_groups([group], request_timeout=TIMEOUT_S).values()
    try:
        future.result()
    except KafkaException as error:
        raise Fatal(f"topics: {group!r} cannot be forgotten: {error.args[0].str()}; is it stopped?") from error
    print(f"topics: {group} is forgotten; if it starts again, it begins where its own database says")


def set_committed(log: Log, group: str, offsets: list[TopicPartition]) -> None:
    """Set what a group has committed. Raises `KafkaException`, as when the group has members.

    First it asks what that is now, which waits for the coordinator of a broker that has just started. Such a broker
    refuses offsets, and a client whose offsets were refused may hang when it is closed (librdkafka 2.16).
    """
    log.committed(group, [Partition(offset.topic, offset.partition) for offset in offsets])
    request = [ConsumerGroupTopicPartitions(group, offsets)]
    [future] = log.admin.alter_consumer_group_offsets(request, request_timeout=TIMEOUT_S).values()
    for partition in future.result().topic_partitions:
        if partition.error is not None:
            raise KafkaException(partition.error)


def service_name(text: str) -> str:
    if re.fullmatch("[a-z][a-z0-9-]{0,62}", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a service's name, such as notify")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="topics", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("create")
    commands.add_parser("rotate")
    commands.add_parser("list")
    commands.add_parser("copies")
    commands.add_parser("trim").add_argument("--dry-run", action="store_true")
    commands.add_parser("rewind").add_argument("topic", choices=sorted(READS[SAGA]))
    commands.add_parser("forget").add_argument("group")
    commands.add_parser("allow").add_argument("service", type=service_name)
    chosen = parser.parse_args(arguments)
    env = Env("topics")
    log = Log(brokers(env), "topics")
    log.wait(START_S if chosen.command == "create" else ANSWER_S)
    match chosen.command:
        case "create":
            create(log, topic_partitions(env), env.integer("TOPIC_REPLICAS", 1, least=1, most=9))
            if access.is_asked_for(log):
                access.create(log, access.passwords_folder(env))
        case "rotate":
            access.rotate(log, access.passwords_folder(env))
            record(env, "rotate", "Kafka's passwords", {}, "new passwords")
        case "allow":
            if not access.is_asked_for(log):
                raise Fatal("topics: this broker asks for no users, so every service may read already")
            access.check_name(chosen.service)
            record(env, "allow", f"service {chosen.service}", {}, "may read what happens to orders")
            access.allow(log, chosen.service, access.passwords_folder(env))
        case "list":
            show(log)
        case "copies":
            await_copies(log.admin)
        case "trim":
            trim(log, env, dry_run=chosen.dry_run)
        case "rewind":
            rewind(log, env, chosen.topic)
        case "forget":
            forget(log.admin, env, chosen.group)
    return 0


if __name__ == "__main__":
    tool.run(main)
