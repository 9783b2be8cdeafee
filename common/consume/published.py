"""After a failover: whether the database has what its service published last.

Positions and committed offsets show that a database went back if an instance outlived it, and has committed the offsets
of what it published. If both died at once, only the service's own topic does: whatever is in it was committed before.
So does the topic of what was entered over HTTP, which has no positions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from common.codec import decoded, decoder_for
from common.config.kafka import Brokers
from common.consume.handler import Handler
from common.errors import LossDetected, Transient
from common.events import ENTERS, AccountDeposited, Event, ProductRestocked, type_of
from common.kafka import broker
from common.kafka.clients import reader_config
from common.kafka.identity import AdminClient, Consumer
from common.postgres import Conn, columns, transaction

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


class EnteredRows:
    """The rows of a table that were entered over HTTP, each under an idempotency key of what it is about."""

    def __init__(self, table: str, subject: str) -> None:
        """`subject` is the column that says what a row is about, such as a customer."""
        self._known = f"""
            SELECT {subject}, idempotency_key FROM {table}
            WHERE ({subject}, idempotency_key) IN (SELECT * FROM unnest(%s::text[], %s::text[]))
        """  # noqa: S608 - names of ours

    def known(self, connection: Conn, keys: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of these subjects and keys that have a row."""
        return set(connection.execute(self._known.encode(), columns(keys)).fetchall()) if keys else set()


def lacking(
    connection: Conn,
    published: Iterable[Event],
    states: Callable[[Conn, Sequence[str]], Mapping[str, str]],
    ranks: Mapping[str, int],
    entered_rows: EnteredRows,
) -> list[Event]:
    """Those of the events that a service published, and entered over HTTP, which say more than its database has.

    `states` reads the state of the decision about each of these orders.
    """
    entered: list[AccountDeposited | ProductRestocked] = []
    decided: list[Event] = []
    for event in published:
        if isinstance(event, AccountDeposited | ProductRestocked):
            entered.append(event)
        else:
            decided.append(event)
    known = entered_rows.known(connection, [(event.subject, event.data.key) for event in entered])
    return [
        *behind(decided, states(connection, [event.subject for event in decided]), ranks),
        *(event for event in entered if (event.subject, event.data.key) not in known),
    ]
