"""The settings of all Kafka clients: the same partitioner everywhere, acknowledged by the log or not at all."""

from enum import Enum
from typing import Any, Final

from confluent_kafka import KafkaError, Message

from common.config.kafka import Brokers

# Java's partitioner, so that any client of any language puts a customer into the same partition.
PARTITIONER: Final = "murmur2_random"
SASL_MECHANISM: Final = "SCRAM-SHA-512"
DELIVERY_TIMEOUT_MS: Final = 10_000
PRODUCER_BUFFER_KIB: Final = 64 * 1024
PRODUCER_BUFFER_MESSAGES: Final = 200_000
MAX_POLL_INTERVAL_MS: Final = 300_000
SOCKET_TIMEOUT_MS: Final = 15_000
"""How long a consumer waits for an answer. A leader that is frozen keeps connections open: only after this time does
the consumer look for another one. An answer may have the largest record that there is."""
PRODUCER_SOCKET_TIMEOUT_MS: Final = 3_000
"""The same for a producer. A frozen leader is replaced after 4 s, and an order waits for 5 s (`ORDER_DEADLINE_MS`); a
request that was sent twice counts once."""
CONSUMER_BUFFER_KIB: Final = 16 * 1024
FETCH_BYTES: Final = 256 * 1024
"""Of each partition at a time, about 450 events. With the client's 1 MiB, a saga that was behind got 11,000 orders
before the first of their results."""
FETCH_QUEUE_BACKOFF_MS: Final = 4
"""How often a consumer looks whether its queue is still full. The client's default of a second stalls a fast one."""
MESSAGE_BYTES_MAX: Final = 128 * 1024 * 1024
"""The largest record that can be read and parked. Its bytes travel to PostgreSQL as hex, in a row of at most 1 GB."""
RECEIVE_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""An answer of the broker has at least one batch, whatever its size; a client that refuses it reads no further."""

ADMIN_REFRESH_MS: Final = 3_000
"""How often an admin client reads anew which brokers there are. It sends most requests to the one that it takes for the
controller; by default it would go on for 5 min when that is away. Less than a request may take."""
ADMIN: Final = {
    # By default a client connects to a broker when it has a request for it. While an admin request waits for a broker
    # that is away, librdkafka (2.16) then connects thousands of times a second: each failure wakes the request, which
    # looks for its broker and so ends the backoff (`rd_kafka_broker_get_async`). Standing connections keep to it.
    "enable.sparse.connections": False,
    "topic.metadata.refresh.interval.ms": ADMIN_REFRESH_MS,
}
"""What an admin client has beside `client_config`."""


def secured(brokers: Brokers) -> dict[str, str]:
    """How a client reaches the brokers and shows who it is. Raises `Fatal` when the password cannot be read."""
    reached = {"bootstrap.servers": brokers.servers}
    if brokers.protocol == "PLAINTEXT":
        return reached
    reached |= {
        "security.protocol": brokers.protocol,
        "ssl.ca.location": str(brokers.ca_file),
        "ssl.endpoint.identification.algorithm": "https",
    }
    if brokers.protocol == "SSL":
        return reached | {
            "ssl.certificate.location": str(brokers.cert_file),
            "ssl.key.location": str(brokers.key_file),
        }
    return reached | {
        "sasl.mechanism": SASL_MECHANISM,
        "sasl.username": brokers.username,
        "sasl.password": brokers.password(),
    }


def client_config(brokers: Brokers, client_id: str) -> dict[str, Any]:
    """What all our clients have in common."""
    return {
        **secured(brokers),
        "client.id": client_id,
        # While all brokers are away, a client connects twice in this time: librdkafka (2.16) begins again with the
        # addresses that it was given, which have no backoff. A lost connection is made again at once in any case.
        "reconnect.backoff.ms": 200,
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        "socket.nagle.disable": True,  # the requests of several partitions follow one another: none waits for an ACK
        "receive.message.max.bytes": RECEIVE_BYTES_MAX,
        "log_level": 2,  # at 3 it writes ten lines a second while the broker is away; our own log reports it once
    }


def consumer_config(brokers: Brokers, client_id: str, group: str) -> dict[str, Any]:
    """A member of a group under KIP-848, whose session timeout is the broker's.

    `range` gives one member the same partition number of every topic. The offset policy is `error`: the start is
    always set explicitly, and a log that no longer has that offset is an error.
    """
    return {
        **client_config(brokers, client_id),
        "group.id": group,
        "group.protocol": "consumer",
        "group.remote.assignor": "range",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "max.poll.interval.ms": MAX_POLL_INTERVAL_MS,
        "socket.timeout.ms": SOCKET_TIMEOUT_MS,
        "fetch.queue.backoff.ms": FETCH_QUEUE_BACKOFF_MS,
        "queued.min.messages": 1,
        "fetch.wait.max.ms": 50,
        "queued.max.messages.kbytes": CONSUMER_BUFFER_KIB,
        "fetch.message.max.bytes": FETCH_BYTES,
    }


def reader_config(brokers: Brokers, client_id: str) -> dict[str, Any]:
    """Reads by assignment and joins no group; nothing is ever committed."""
    return {
        **client_config(brokers, client_id),
        "group.id": client_id,  # the client requires one
        "enable.auto.commit": False,
        "enable.partition.eof": True,  # a partition may end in something that is not a record, or be empty
    }


def producer_config(brokers: Brokers, client_id: str, *, linger_ms: float) -> dict[str, Any]:
    """Idempotent, `acks=all`: an acknowledged record is in the log once, in order."""
    return {
        **client_config(brokers, client_id),
        "partitioner": PARTITIONER,
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": linger_ms,
        "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
        "socket.timeout.ms": PRODUCER_SOCKET_TIMEOUT_MS,
        "queue.buffering.max.kbytes": PRODUCER_BUFFER_KIB,
        "queue.buffering.max.messages": PRODUCER_BUFFER_MESSAGES,
    }


_ASSUMED: Final = KafkaError(
    KafkaError._TIMED_OUT, "the log acknowledged a later record, and the client took that for this one's too"
)


def failure_of(error: KafkaError | None, message: Message | None) -> KafkaError | None:
    """Why a delivery report does not say that the log has the record: None if it has it, with an offset.

    When a batch succeeds, librdkafka (2.16, `rd_kafka_dr_implicit_ack`) reports those before it in the partition as
    delivered too, if it does not know what became of them; they have no offset. A leader that was killed may have taken
    them with it: the next one accepts a later batch without them when the client has begun a new epoch.
    """
    if error is None and (message is None or message.offset() is None):
        return _ASSUMED
    return error


class Delivery(Enum):
    """What a producer's error says about the record."""

    REFUSED = "refused"
    """The log does not have it, and will not take it until an operator changes something."""
    NOT_TAKEN = "not taken"
    """The log does not have it. It may take it in a moment."""
    UNKNOWN = "unknown"
    """The log may have it: an answer is missing."""


_REFUSED: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError._INVALID_ARG,
    }
)
# The client says these of records that it has not sent. What it gives up after retries ends as a timeout: unknown.
_NOT_TAKEN: Final = frozenset(
    {
        KafkaError._QUEUE_FULL,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._PURGE_QUEUE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.NOT_ENOUGH_REPLICAS,
    }
)


def delivery_of(error: KafkaError) -> Delivery:
    """Whether the log may have a record whose delivery failed. An error not known here is `UNKNOWN`."""
    code = error.code()
    return Delivery.REFUSED if code in _REFUSED else Delivery.NOT_TAKEN if code in _NOT_TAKEN else Delivery.UNKNOWN
