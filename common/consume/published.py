"""After a failover: whether the database has what its service published last.

Positions and committed offsets show that a database went back if an instance outlived it, and has committed the offsets
of what it published. If both died at once, only the service's own topic does: whatever is in it was committed before.
So does the topic of what was entered over HTTP, which has no positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from common.codec import decoded, decoder_for
from common.config.kafka import Brokers
from common.consume.handler import Handler
from common.errors import LossDetected, Transient
from common.events import ENTERS, Event, type_of
from common.kafka import broker
from common.kafka.clients import reader_config
from common.kafka.identity import AdminClient, Consumer
from common.postgres import Conn, transaction

LAST_RECORDS: Final = 200
"""Of each partition. What was lost is the end of what was published, so the last records show it."""
SILENCE_POLLS: Final = 50
POLL_S: Final = 0.2


def check(brokers: Brokers, admin: AdminClient, connection: Conn, handler: Handler[Any]) -> None:
    """Raises `LossDetected` when the database lacks one of the last events that the service published, and `Transient`
    when they cannot be read."""
    topics = [*handler.publishes, *ENTERS.get(handler.group, ())]
    published = last_events(brokers, admin, f"{handler.group}-last", topics)
    with transaction(connection):
        lost = handler.lacking(connection, published)
    if lost:
        first = lost[0]
        raise LossDetected(
            f"the database went back: it lacks {len(lost)} of the last events that were published, such as "
            f"{type_of(first)} of {first.subject}: a standby took over without its last transactions; 'just replay' "
            "brings back what was published"
        )


def last_events(brokers: Brokers, admin: AdminClient, client_id: str, topics: Sequence[str]) -> list[Event]:
    """The last events of each partition. What is no event of its topic is left out."""
    bounds = broker.log_bounds(admin, broker.all_partitions(broker.describe(admin, topics).values()))
    starts = {p: max(first, end - LAST_RECORDS) for p, (first, end) in bounds.items()}
    unread = {p for p, (_, end) in bounds.items() if starts[p] < end}
    events: list[Event] = []
    consumer = Consumer({**reader_config(brokers, client_id), "fetch.wait.max.ms": 100})
    try:
        consumer.assign([TopicPartition(*p, starts[p]) for p in unread])
        silent = 0
        while unread:
            messages = consumer.consume(LAST_RECORDS, POLL_S)
            silent = 0 if messages else silent + 1
            if silent > SILENCE_POLLS:
                raise Transient(f"the last records of {', '.join(topics)} cannot be read")
            for message in messages:
                error = message.error()
                if error is None:
                    event = decoded(decoder_for[str(message.topic())].decode, message.value())
                    if event is not None:
                        events.append(event)
                elif error.code() == KafkaError._PARTITION_EOF:
                    unread.discard(broker.Partition(str(message.topic()), message.partition() or 0))
                else:
                    raise KafkaException(error)
    finally:
        consumer.close()
    return events


def behind(events: Iterable[Event], stored: Mapping[str, str], ranks: Mapping[str, int]) -> list[Event]:
    """The events that go further than the state which is stored of their subject. `ranks` says how far a state is."""
    return [event for event in events if ranks.get(stored.get(event.subject, ""), 0) < event.rank]
