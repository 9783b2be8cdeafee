"""What the broker knows: topics, the ends of their partitions, committed offsets.

Nothing is left out of an answer. Every function raises `Transient` when the broker does not answer or does not know a
topic or partition, and `Fatal` when no retry helps.
"""

import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

import confluent_kafka
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    OffsetSpec,
)

from common.backoff import delays_s
from common.errors import Failure, Fatal, LossDetected, Transient, classify
from common.kafka.identity import refusal

T = TypeVar("T")

REQUEST_TIMEOUT_S: Final = 5.0
LOOK_S: Final = 2.0
"""How long a client that has lost a leader looks for another one."""
WATCH_EVERY_S: Final = 5.0
"""A consumer notices within this time that a topic was created anew or has more partitions."""
TOPIC_IDS_MAX: Final = 256
"""How many ids of topics a process remembers."""

# confluent-kafka 2.16 makes an id for each topic of each description, and never frees it: 2 MB a day for a topic that
# is described every 5 s. It looks for the class of ids in its package every time, so one id for each topic will do.
confluent_kafka.Uuid = lru_cache(maxsize=TOPIC_IDS_MAX)(confluent_kafka.Uuid)  # type: ignore[misc, assignment]

NO_COORDINATOR_YET: Final = frozenset(
    {KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS}
)
NO_LEADER_YET: Final = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
    }
)
"""Brokers and client do not all know yet who leads a partition."""

_LISTENER: Final = re.compile(r"([^:,\s]+)://(\[?)([^,\]]*)\]?:(\d+)")
"""As in `advertised.listeners`: NAME://host:port, where the host may be an IPv6 address in brackets."""


class Partition(NamedTuple):
    topic: str
    number: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.number}"


class Topic(NamedTuple):
    """A topic as the broker describes it."""

    name: str
    topic_id: str
    partitions: int
    replicas: int = 0
    """Copies of each partition; 0 when that is not known."""


def all_partitions(topics: Iterable[Topic]) -> list[Partition]:
    return [Partition(topic.name, number) for topic in topics for number in range(topic.partitions)]


@contextmanager
def query(failed: str) -> Iterator[None]:
    """Say what has failed, in an error of the same class: `Transient` or `Fatal`."""
    try:
        yield
    except KafkaException as error:
        kind = Transient if classify(error) is Failure.TRANSIENT else Fatal
        why = f"{error.args[0].str()}; {refused}" if (refused := refusal()) else error.args[0].str()
        raise kind(f"{failed}: {why}") from error


def describe(admin: AdminClient, names: Iterable[str]) -> dict[str, Topic]:
    futures = _describe(admin, names)
    return {name: _topic(name, future) for name, future in futures.items()}


def _describe(admin: AdminClient, names: Iterable[str]) -> dict[str, "Future[Any]"]:
    return admin.describe_topics(TopicCollection(list(names)), request_timeout=REQUEST_TIMEOUT_S)


def _topic(name: str, future: "Future[Any]") -> Topic:
    with query(f"topic {name!r} cannot be described; try 'just topics'"):
        description = future.result()
    replicas = min((len(partition.replicas) for partition in description.partitions), default=0)
    return Topic(name, str(description.topic_id), len(description.partitions), replicas)


def log_starts(admin: AdminClient, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """The first offset of each partition."""
    return _log_offsets(admin, partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def log_ends(admin: AdminClient, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """The offset that the next record of each partition will get."""
    return _log_offsets(admin, partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def topic_ends(admin: AdminClient, names: Iterable[str]) -> dict[Partition, int]:
    """The same for all partitions that these topics have."""
    return log_ends(admin, all_partitions(describe(admin, names).values()))


def log_bounds(admin: AdminClient, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, int]]:
    """The first offset of each partition, and its end: two requests for all of them."""
    partitions = list(partitions)
    starts = log_starts(admin, partitions)
    ends = log_ends(admin, partitions)
    return {partition: (start, ends[partition]) for partition, start in starts.items()}


def _log_offsets(admin: AdminClient, partitions: Iterable[Partition], spec: OffsetSpec) -> dict[Partition, int]:
    specs = {TopicPartition(*partition): spec for partition in partitions}
    if not specs:
        return {}

    def ask() -> dict[Partition, int]:
        try:
            return _list_offsets(admin, specs)
        except KafkaException:
            # The client goes on asking the leader that it knows, for a quarter of an hour, unless it is told to look.
            admin.list_topics(timeout=LOOK_S)
            return _list_offsets(admin, specs)

    with query("the ends of the log cannot be read"):
        return _ask_while(NO_LEADER_YET, ask, REQUEST_TIMEOUT_S)


def _list_offsets(admin: AdminClient, specs: dict[TopicPartition, OffsetSpec]) -> dict[Partition, int]:
    futures = admin.list_offsets(specs, request_timeout=REQUEST_TIMEOUT_S)
    offsets = {Partition(tp.topic, tp.partition): future.result().offset for tp, future in futures.items()}
    # When a leader does not answer in time, the client says -1001 and no error (confluent-kafka 2.16).
    if unknown := [str(partition) for partition, offset in offsets.items() if offset < 0]:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"{unknown[0]}: its leader has not answered"))
    return offsets


def committed_offsets(
    consumer: Consumer, partitions: Iterable[Partition], timeout_s: float = REQUEST_TIMEOUT_S
) -> dict[Partition, int]:
    """The offsets that the consumer's group has committed; the consumer need not have joined. Retries for `timeout_s`
    while the group's coordinator is only just found, as after the start of a broker.

    Not by `AdminClient.list_consumer_group_offsets`, which crashes the process (a null pointer, librdkafka 2.16) on a
    new broker that has no coordinator for the group yet.
    """
    with query("committed offsets cannot be read"):
        answer = _committed(consumer, [TopicPartition(*partition) for partition in partitions], timeout_s)
    # Below zero: OFFSET_INVALID, nothing was committed.
    return {Partition(tp.topic, tp.partition): tp.offset for tp in answer if tp.offset >= 0}


def _committed(consumer: Consumer, partitions: list[TopicPartition], timeout_s: float) -> list[TopicPartition]:
    def ask() -> list[TopicPartition]:
        answer = consumer.committed(partitions, timeout_s)
        if error := next((tp.error for tp in answer if tp.error is not None), None):
            raise KafkaException(error)
        return answer

    return _ask_while(NO_COORDINATOR_YET, ask, timeout_s)


def _ask_while(passing: Collection[int], ask: Callable[[], T], timeout_s: float) -> T:
    """The answer; asks again, for `timeout_s`, while an error is one of those that pass by themselves."""
    until, delays = time.monotonic() + timeout_s, delays_s()
    while True:
        try:
            return ask()
        except KafkaException as error:
            delay = next(delays)
            if error.args[0].code() not in passing or time.monotonic() + delay > until:
                raise
            time.sleep(delay)


def message_bytes_max(admin: AdminClient, topics: Iterable[str]) -> dict[str, int]:
    """The size of the largest message that each topic accepts."""
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
    with query("max.message.bytes cannot be read"):
        futures = admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
        return {topic.name: int(future.result()["max.message.bytes"].value) for topic, future in futures.items()}


def check_partition_counts(topics: Mapping[str, Topic]) -> None:
    """A result goes to the partition number of its order. Raises `LossDetected` unless all counts are equal."""
    counts = {topic.name: topic.partitions for topic in topics.values()}
    if len(set(counts.values())) > 1:
        raise LossDetected(
            f"topics must have equal partition counts, found {counts}: results would not go where their orders are"
        )


def check_partitions_known(topic: str, partitions: int, known: int) -> None:
    """Raises `LossDetected` when a topic has another number of partitions than are known."""
    if partitions != known:
        raise LossDetected(
            f"{topic}: has {partitions} partitions, positions are known for {known}: the partition count was changed, "
            "so customers have moved between partitions"
        )


def check_same(known: Topic, current: Topic) -> None:
    """Raises `LossDetected` unless a topic is still the one it was."""
    if current.topic_id != known.topic_id:
        raise LossDetected(
            f"{known.name}: the topic was created anew (id {current.topic_id}, known as {known.topic_id})"
        )
    check_partitions_known(known.name, current.partitions, known.partitions)


class TopicWatch:
    """Checks now and then that the topics are still those that were described.

    The client does not report it: when a topic is replaced, or gets more partitions, the group just assigns what there
    is. The request is sent in one call and its answer read in a later one, so that a batch never waits for it.
    """

    def __init__(self, admin: AdminClient, topics: Mapping[str, Topic]) -> None:
        self._admin = admin
        self._topics = topics
        self._pending: dict[str, Future[Any]] | None = None
        self._next_s = 0.0

    def check(self, at_s: float) -> None:
        """Raises `LossDetected`, or `Transient` when a topic is gone; a broker that is away is no error here."""
        if self._pending is None:
            if at_s >= self._next_s:
                self._next_s = at_s + WATCH_EVERY_S
                self._pending = _describe(self._admin, self._topics)
        elif all(future.done() for future in self._pending.values()):
            answered, self._pending = self._pending, None
            for name, future in answered.items():
                if not _broker_away(future.exception()):
                    check_same(self._topics[name], _topic(name, future))


def _broker_away(error: BaseException | None) -> bool:
    return isinstance(error, KafkaException) and error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART


def read_key_store(admin: AdminClient, node_id: str, path: str, listeners: Iterable[str]) -> None:
    """Let these listeners of a broker show the certificate that the file `path` has now. Open connections stay. Raises
    `Transient` and `Fatal`."""
    # The broker reads the file again when its path is set, be it the same.
    entries = [
        ConfigEntry(
            f"listener.name.{name.lower()}.ssl.keystore.location", path, incremental_operation=AlterConfigOpType.SET
        )
        for name in listeners
    ]
    node = ConfigResource(ConfigResource.Type.BROKER, node_id, incremental_configs=entries)
    with query("the broker's certificate cannot be renewed"):
        for future in admin.incremental_alter_configs([node], request_timeout=REQUEST_TIMEOUT_S).values():
            future.result()


def user_listeners(admin: AdminClient) -> list[tuple[str, int]]:
    """Where users log in with passwords, at each broker that runs: host and port, on the host by which `admin` reaches
    the broker. Raises `Transient` and `Fatal`."""
    with query("the brokers' listeners cannot be read"):
        brokers = admin.list_topics(timeout=REQUEST_TIMEOUT_S).brokers
        nodes = [ConfigResource(ConfigResource.Type.BROKER, str(number)) for number in sorted(brokers)]
        futures = admin.describe_configs(nodes, request_timeout=REQUEST_TIMEOUT_S)
        settings = {int(node.name): future.result() for node, future in futures.items()}
    return [
        (host, int(port))
        for number, of_broker in settings.items()
        for name, _, host, port in _LISTENER.findall(of_broker["advertised.listeners"].value)
        if f"{name}:SASL_SSL" in of_broker["listener.security.protocol.map"].value.split(",")
        and host == brokers[number].host
    ]
