"""The settings that the topics must have, and how they differ from those.

Anyone with access to the broker can change a topic: a retention deletes orders unread, compaction all but a customer's
last event, a small `max.message.bytes` refuses orders. `just topics create` sets them again.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]
from loguru import logger

from common.events import ENTERED, PRODUCTS
from common.kafka import broker
from common.kafka.broker import REQUEST_TIMEOUT_S
from common.kafka.clients import MESSAGE_BYTES_MAX

CHECK_EVERY_S: Final = 10.0
"""To answer, the broker collects some thirty settings of each topic. The check warns, it does not protect: what another
retention makes too old is deleted within 10 s as well."""
OFFSETS: Final = "__consumer_offsets"
"""Kafka's own topic of committed offsets. Its other topics are made with the copies that an acknowledgement needs."""
MESSAGE_BYTES: Final = "max.message.bytes"

# The broker's own time and no retention: a wrong clock must not delete orders that nobody has read.
KEPT: Final = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "LogAppendTime",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    # Trimming frees closed segments only. Smaller ones, or closed more often, would be too many maps for the broker
    # when years of orders are kept (two a segment; Linux allows 65,530).
    "segment.bytes": str(16 * 1024 * 1024),
    "segment.ms": str(24 * 60 * 60 * 1000),
    "file.delete.delay.ms": "1000",
    MESSAGE_BYTES: "1048588",
    "unclean.leader.election.enable": "false",
}
COMPACTED: Final = {
    "cleanup.policy": "compact",
    "message.timestamp.type": "LogAppendTime",
    "min.cleanable.dirty.ratio": "0.1",
    "segment.ms": "3600000",
    MESSAGE_BYTES: "1048588",
    "unclean.leader.election.enable": "false",
}


class Drift(NamedTuple):
    """A setting of a topic that is not as it must be."""

    topic: str
    setting: str
    value: str
    wanted: str

    def __str__(self) -> str:
        least = f"at most {MESSAGE_BYTES_MAX} and at least " if self.setting == MESSAGE_BYTES else ""
        return (
            f"topic {self.topic!r}: {self.setting} is {self.value}, must be {least}{self.wanted}; "
            "'just topics create' sets it again"
        )


def partitions_of(topic: str, of_orders: int) -> int:
    """How many partitions a topic has, when those about orders have `of_orders`. The catalogue is small and each api
    reads all of it: one partition, one order."""
    return 1 if topic in (PRODUCTS, *ENTERED) else of_orders


def wanted(topic: str, replicas: int) -> dict[str, str]:
    """What a topic's settings must be, for that many `replicas`; 0 when that is not known.

    With acks=all, a record is acknowledged once as many copies have it as `min.insync.replicas` says: all but one, or
    the only one.
    """
    in_sync = {"min.insync.replicas": str(max(1, replicas - 1))} if replicas else {}
    if topic == OFFSETS:
        return in_sync
    return {**(COMPACTED if topic == PRODUCTS else KEPT), **in_sync}


def drift_of(topic: str, current: Mapping[str, str], replicas: int = 0) -> list[Drift]:
    """The settings, among those that `current` has, which are not as they must be."""
    return [
        Drift(topic, setting, current[setting], value)
        for setting, value in wanted(topic, replicas).items()
        if setting in current and not _is_good(setting, current[setting], value)
    ]


def _is_good(setting: str, found: str, wanted: str) -> bool:
    return int(wanted) <= int(found) <= MESSAGE_BYTES_MAX if setting == MESSAGE_BYTES else found == wanted


def fetch_drift(admin: AdminClient, names: Iterable[str]) -> list[Drift]:
    """The drift of these topics, in order. Raises `Transient` for a topic that is missing, and `Fatal`."""
    topics = broker.describe(admin, names)
    drift: list[Drift] = []
    for name, future in _request(admin, topics).items():
        with broker.query(f"the settings of topic {name!r} cannot be read"):
            drift += drift_of(name, _values(future), topics[name].replicas)
    return drift


def mend(admin: AdminClient, drift: Iterable[Drift]) -> None:
    """Set these settings as they must be. Raises `Transient` or `Fatal` when the broker refuses."""
    by_topic: dict[str, list[Any]] = {}
    for change in drift:
        entry = ConfigEntry(change.setting, change.wanted, incremental_operation=AlterConfigOpType.SET)
        by_topic.setdefault(change.topic, []).append(entry)
    resources = [
        ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=entries)
        for topic, entries in by_topic.items()
    ]
    if resources:
        futures = admin.incremental_alter_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
        for resource, future in futures.items():
            with broker.query(f"the settings of topic {resource.name!r} cannot be changed"):
                future.result()


def _request(admin: AdminClient, names: Iterable[str]) -> "dict[str, Future[Any]]":
    resources = [ConfigResource(ConfigResource.Type.TOPIC, name) for name in names]
    futures = admin.describe_configs(resources, request_timeout=REQUEST_TIMEOUT_S)
    return {resource.name: future for resource, future in futures.items()}


def _values(future: "Future[Any]") -> dict[str, str]:
    return {name: entry.value for name, entry in future.result().items() if entry.value is not None}


class SettingsWatch:
    """Checks now and then that topics have the settings that they must have.

    The request is sent in one call and its answer read in a later one, so that nothing waits for it.
    """

    def __init__(self, admin: AdminClient, topics: Iterable[str]) -> None:
        self._admin = admin
        self._topics = sorted(topics)
        self._pending: dict[str, Future[Any]] | None = None
        self._next_s = 0.0
        self.drift: list[Drift] = []

    def check(self, at_s: float) -> None:
        """Bring `drift` up to date, given the monotonic time. A broker that is away changes nothing."""
        if self._pending is None:
            if at_s >= self._next_s:
                self._next_s = at_s + CHECK_EVERY_S
                self._pending = _request(self._admin, self._topics)
        elif all(future.done() for future in self._pending.values()):
            answered, self._pending = self._pending, None
            try:
                drift = [drift for name, future in answered.items() for drift in drift_of(name, _values(future))]
            except KafkaException:
                return
            for new in drift:
                if new not in self.drift:
                    logger.warning("a topic is not set as it must be: {}", new)
            self.drift = drift
