"""What a producer asks of a broker, as bytes, and what it is answered. Kafka 4 has these versions.

References: Kafka's protocol guide, "The Messages": Metadata (key 3, version 10), InitProducerId (22, 4), Produce
(0, 9).
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from common.events import Milliseconds
from common.kafka.produce.batch import Identity
from common.kafka.wire import Fields, text, varint

METADATA: Final = 3, 10
IDENTITY: Final = 22, 4
PRODUCE: Final = 0, 9

_NO_TAGS: Final = b"\0"
_NULL: Final = b"\0"
_NO_ID: Final = bytes(16)
_ALL_COPIES: Final = -1
_RESULT: Final = struct.Struct(">ihqqq")
_RESULT_END: Final = b"\1\0\0"
"""No record that is to blame, no message, no tags."""


class Leader(NamedTuple):
    """Who leads a partition: a broker's id, -1 for nobody, and the count of its elections."""

    node: int
    epoch: int


NO_LEADER: Final = Leader(-1, -1)


class Topic(NamedTuple):
    """What a broker says of a topic: an error of the protocol (0 for none), the leader of each partition, and its id,
    which is another one when it is made anew."""

    error: int
    leaders: dict[int, Leader]
    topic_id: bytes = _NO_ID


class Metadata(NamedTuple):
    """The address of each broker, by its id, and the topics that were asked for."""

    brokers: dict[int, tuple[str, int]]
    topics: dict[str, Topic]


class Result(NamedTuple):
    """What became of one partition's batch: the first offset and the time of its records, if `error` is 0."""

    topic: str
    partition: int
    error: int
    offset: int
    at: Milliseconds
    message: str


def metadata_request(topics: Iterable[str]) -> bytes:
    """Asks where the partitions of these topics are. No topic is made by it."""
    names = [_NO_ID + text(topic) + _NO_TAGS for topic in topics]
    return b"".join([_NO_TAGS, varint(len(names) + 1), *names, b"\0\0\0", _NO_TAGS])


def metadata(answer: bytes) -> Metadata:
    """Raises `IndexError` and `struct.error` for an answer that is too short."""
    fields = Fields(answer)
    fields.skip_tags()
    fields.take("i")
    brokers = {}
    for _ in fields.each():
        node = fields.take("i")
        brokers[node] = fields.text(), fields.take("i")
        fields.text()
        fields.skip_tags()
    fields.text()
    fields.take("i")
    return Metadata(brokers, dict(_topic(fields) for _ in fields.each()))


def _topic(fields: Fields) -> tuple[str, Topic]:
    error, name, topic_id = fields.take("h"), fields.text(), fields.skip(len(_NO_ID))
    fields.take("b")
    leaders = {}
    for _ in fields.each():
        fields.take("h")
        number = fields.take("i")
        leaders[number] = Leader(fields.take("i"), fields.take("i"))
        for _ in range(3):  # the copies, those in sync, those that are away
            fields.skip(4 * max(0, fields.varint() - 1))
        fields.skip_tags()
    fields.take("i")
    fields.skip_tags()
    return name, Topic(error, leaders, topic_id)


def newest(answers: Sequence[Metadata]) -> Metadata:
    """What several brokers say, some of which may lag behind: for each partition, the leader that was elected last. Of
    a topic that was made anew, what the first of them knows."""
    brokers, topics = dict(answers[0].brokers), dict(answers[0].topics)
    for answer in answers[1:]:
        brokers |= answer.brokers
        for name, topic in answer.topics.items():
            known = topics.get(name)
            if known is None or known.error:
                topics[name] = topic
            elif not topic.error and topic.topic_id == known.topic_id:
                for number, leader in topic.leaders.items():
                    known.leaders[number] = max(
                        known.leaders.get(number, leader), leader, key=lambda one: (one.epoch, one.node >= 0)
                    )
    return Metadata(brokers, topics)


def identity_request() -> bytes:
    """Asks for an identity that nobody has."""
    return _NO_TAGS + _NULL + struct.pack(">iqh", 0, -1, -1) + _NO_TAGS


def identity(answer: bytes) -> tuple[int, Identity]:
    """An error of the protocol (0 for none), and the identity. Raises `IndexError` and `struct.error`."""
    fields = Fields(answer)
    fields.skip_tags()
    fields.take("i")
    return fields.take("h"), Identity(fields.take("q"), fields.take("h"))


def produce_request(batches: Mapping[str, Sequence[tuple[int, bytes]]], timeout_ms: int) -> bytes:
    """Asks to store a batch in each partition, by topic and number, and to answer when all copies in sync have them."""
    parts = [_NO_TAGS, _NULL, struct.pack(">hi", _ALL_COPIES, timeout_ms), varint(len(batches) + 1)]
    for topic, partitions in batches.items():
        parts += text(topic), varint(len(partitions) + 1)
        for number, batch in partitions:
            parts += struct.pack(">i", number), varint(len(batch) + 1), batch, _NO_TAGS
        parts.append(_NO_TAGS)
    parts.append(_NO_TAGS)
    return b"".join(parts)


def produced(answer: bytes) -> list[Result]:
    """Raises `IndexError` and `struct.error` for an answer that is too short."""
    fields = Fields(answer)
    fields.skip_tags()
    results = []
    for _ in fields.each():
        topic = fields.text()
        for _ in fields.each():
            number, error, offset, at_ms, _ = _RESULT.unpack(fields.skip(_RESULT.size))
            message = "" if fields.skips(_RESULT_END) else _why(fields)
            results.append(Result(topic, number, error, offset, Milliseconds(at_ms), message))
        fields.skip_tags()
    return results


def _why(fields: Fields) -> str:
    """The message of a broker about a batch or its records."""
    messages = []
    for _ in fields.each():
        fields.take("i")
        messages.append(fields.text())
        fields.skip_tags()
    messages.append(fields.text())
    fields.skip_tags()
    return "; ".join(filter(None, messages))
