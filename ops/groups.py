"""Who is in a consumer group, as its coordinator says.

The client library can ask for that too. But a request of it that waits in vain for a broker aborts the process when the
broker comes back (librdkafka#4605), and a process that asks every few seconds meets that whenever one of several
brokers restarts. So this asks by itself: FindCoordinator, version 4, and ConsumerGroupDescribe, version 0, which
brokers have since Kafka 4.0. https://kafka.apache.org/protocol#The_Messages_ConsumerGroupDescribe
"""

import struct
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from confluent_kafka.admin import BrokerMetadata  # type: ignore[attr-defined]

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka import wire
from common.kafka.broker import Partition
from common.kafka.wire import Fields

FIND_COORDINATOR: Final = (10, 4)
DESCRIBE: Final = (69, 0)
"""Key and version of a request."""
GROUP: Final = b"\x00"
"""The kind of coordinator."""
WITHOUT_RIGHTS: Final = b"\x00"
"""What one may do to a group is not asked for."""
NO_SUCH_GROUP: Final = 69
"""The error for a group that nobody has joined yet."""
NO_TAGS: Final = b"\x00"
UUID_BYTES: Final = 16


class Member(NamedTuple):
    client_id: str
    host: str
    partitions: list[Partition]
    """Which it has now."""


def members(brokers: Brokers, nodes: Iterable[BrokerMetadata], groups: Iterable[str]) -> dict[str, list[Member]]:
    """The members of these groups. One that nobody has joined has none. Raises `Transient` when no broker, or
    a coordinator, answers, or one answers with an error."""
    groups = list(groups)
    found = _found(brokers, nodes, groups)
    known: dict[str, list[Member]] = {}
    for coordinator in dict.fromkeys(found.values()):
        its = [group for group in groups if found[group] == coordinator]
        body = NO_TAGS + _names(its) + WITHOUT_RIGHTS + NO_TAGS
        known |= described(_asked(brokers, coordinator, DESCRIBE, body))
    return known


def _found(brokers: Brokers, nodes: Iterable[BrokerMetadata], groups: Collection[str]) -> dict[str, tuple[str, int]]:
    """The coordinators, as the first broker says that answers: one that was just killed is known for some seconds."""
    failure = Transient("no broker is known")
    for node in nodes:
        at = str(node.host), int(node.port or 0)
        try:
            return coordinators(_asked(brokers, at, FIND_COORDINATOR, NO_TAGS + GROUP + _names(groups) + NO_TAGS))
        except Transient as error:
            failure = error
    raise failure


def _names(groups: Collection[str]) -> bytes:
    return bytes([len(groups) + 1]) + b"".join(map(wire.text, groups))


def _asked(brokers: Brokers, at: tuple[str, int], request: tuple[int, int], body: bytes) -> Fields:
    fields = Fields(wire.request(brokers, *at, *request, body))
    fields.skip_tags()  # of the header
    fields.take("i")  # the throttle time
    return fields


def coordinators(answer: Fields) -> dict[str, tuple[str, int]]:
    """Host and port of the coordinator of each group. Raises `Transient`."""
    try:
        found = {}
        for _ in answer.each():
            group, _, host, port = answer.text(), answer.take("i"), answer.text(), answer.take("i")
            if error := answer.take("h"):
                raise Transient(f"group {group} has no coordinator: error {error} of Kafka's protocol")
            answer.text()  # of the error
            answer.skip_tags()
            found[group] = host, port
        return found
    except (IndexError, struct.error) as error:
        raise Transient(f"a broker does not say which are the coordinators: {error}") from error


def described(answer: Fields) -> dict[str, list[Member]]:
    """The members of each group of an answer. Raises `Transient`."""
    try:
        return dict(_group(answer) for _ in answer.each())
    except (IndexError, struct.error) as error:
        raise Transient(f"a coordinator does not say who is in its groups: {error}") from error


def _group(answer: Fields) -> tuple[str, list[Member]]:
    error, why, group = answer.take("h"), answer.text(), answer.text()
    if error not in (0, NO_SUCH_GROUP):
        raise Transient(f"group {group} cannot be described: error {error} of Kafka's protocol ({why})")
    answer.text(), answer.take("i"), answer.take("i"), answer.text()  # its state, epochs and assignor
    found = [_member(answer) for _ in answer.each()]
    answer.take("i")  # what one may do to it
    answer.skip_tags()
    return group, found


def _member(answer: Fields) -> Member:
    answer.text(), answer.text(), answer.text(), answer.take("i")  # its ids, rack and epoch
    client_id, host = answer.text(), answer.text()
    for _ in answer.each():
        answer.text()  # a topic that it has subscribed to
    answer.text()  # the expression by which it has
    partitions = _assignment(answer)
    _assignment(answer)  # which it is to have
    answer.skip_tags()
    return Member(client_id, host, partitions)


def _assignment(answer: Fields) -> list[Partition]:
    partitions = []
    for _ in answer.each():
        answer.skip(UUID_BYTES)
        topic = answer.text()
        partitions += [Partition(topic, answer.take("i")) for _ in answer.each()]
        answer.skip_tags()
    answer.skip_tags()
    return partitions
