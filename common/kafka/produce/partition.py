"""What a partition has yet to get, and what an answer about its last batch means. No I/O.

A partition has one batch under way at a time. So batches arrive in order whatever is sent again, and a broker that has
one already says where: it remembers the last five of each identity (KIP-98; Kafka's documentation, "Idempotent
Delivery").
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

from confluent_kafka import KafkaError
from loguru import logger

from common.backoff import delays_s
from common.kafka.broker import NO_LEADER_YET
from common.kafka.clients import Delivery, delivery_of
from common.kafka.produce.batch import BATCH_BYTES_MAX, Acknowledged, Identity, Outgoing, encode
from common.kafka.produce.requests import Result

RETRY_S: Final = 0.02
"""The longest wait before a batch is sent for the second time."""
RETRY_MAX_S: Final = 1.0
"""The longest before it is sent again after that."""


class Verdict(Enum):
    """What an error of a broker says of a batch."""

    AGAIN = "again"
    """It may take it in a moment."""
    MOVED = "moved"
    """Another broker may lead the partition. This one may have stored it before it ceased to be the leader."""
    ANEW = "anew"
    """It does not follow what the log has of this identity: its records need another one."""
    SMALLER = "smaller"
    """It is too large for the topic; half of it may not be."""
    FAILED = "failed"
    """No retry helps."""


_AGAIN: Final = frozenset(
    {
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.INVALID_MSG,  # damaged on its way
    }
)
_MOVED: Final = NO_LEADER_YET | {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.KAFKA_STORAGE_ERROR,
    KafkaError.REPLICA_NOT_AVAILABLE,
}
_ANEW: Final = frozenset(
    {
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)
_SMALLER: Final = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
_PERHAPS_STORED: Final = frozenset(
    {KafkaError.REQUEST_TIMED_OUT, KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, KafkaError.DUPLICATE_SEQUENCE_NUMBER}
)
"""Errors after which the log may have the batch."""


def verdict_of(code: int, records: int) -> Verdict:
    """What an error says of a batch of so many records."""
    if code in _AGAIN:
        return Verdict.AGAIN
    if code in _MOVED:
        return Verdict.MOVED
    if code in _ANEW:
        return Verdict.ANEW
    if code in _SMALLER and records > 1:
        return Verdict.SMALLER
    return Verdict.FAILED


class Batch:
    """Records that are sent together, as often as it takes."""

    def __init__(self, records: list[Outgoing], encoded: bytes) -> None:
        self.records = records
        self.encoded = encoded
        self.perhaps_stored = False
        """Whether the log may have it: it was sent, and no answer said otherwise."""
        self.error: KafkaError | None = None
        """The last that a broker said."""


class Partition:
    """The records that wait for a partition, and the batch under way.

    It keeps the identity that it writes under for as long as it knows which number the log expects of it.
    """

    def __init__(self, topic: str, number: int) -> None:
        self.topic = topic
        self.number = number
        self.waiting: deque[Outgoing] = deque()
        self.waiting_bytes = 0
        self.batch: Batch | None = None
        self.asked = False
        """Whether a broker has been asked to store the batch, and has not answered."""
        self.retry_at_s = 0.0
        """Before this it is not asked again, on the clock of the event loop."""
        self._delays = delays_s(RETRY_MAX_S, RETRY_S)
        self._identity: Identity | None = None
        self._dropped: Identity | None = None
        """An identity of which nobody knows what the log has."""
        self._sequence = 0
        self._records_max: int | None = None

    @property
    def needs_identity(self) -> bool:
        """Whether it has none to write under."""
        return self._identity is None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to send."""
        return self.batch is None and not self.waiting

    def queue(self, record: Outgoing, size: int) -> None:
        """Let a record wait behind the others."""
        self.waiting.append(record)
        self.waiting_bytes += size

    def next_batch(self, fresh: Identity | None, at_ms: int) -> Batch | None:
        """The batch to send now. None if that needs an identity other than the one given, `fresh`."""
        if self.batch is not None:
            return self.batch
        if self._identity is None:
            if fresh is None or fresh == self._dropped:
                return None
            self._identity, self._sequence = fresh, 0
        records = self._take()
        self.batch = Batch(records, encode(records, self._identity, self._sequence, at_ms))
        return self.batch

    def _take(self) -> list[Outgoing]:
        records: list[Outgoing] = []
        waiting, taken = self.waiting, 0
        while waiting and len(records) != self._records_max:
            size = waiting[0].size
            if records and taken + size > BATCH_BYTES_MAX:
                break
            records.append(waiting.popleft())
            taken += size
        self.waiting_bytes -= taken
        return records

    def stored(self, result: Result) -> None:
        """The log has the batch."""
        batch = self._end()
        self._delays = delays_s(RETRY_MAX_S, RETRY_S)
        self._sequence = (self._sequence + len(batch.records)) & 0x7FFFFFFF
        self._records_max = None
        number, offset, at = self.number, result.offset, result.at
        for place, record in enumerate(batch.records, offset):
            tell(record, Acknowledged(number, place, at), None)

    def unanswered(self, now_s: float) -> None:
        """The connection has ended before an answer came."""
        assert self.batch is not None
        self.batch.perhaps_stored = True
        self._wait(now_s)

    def refused(self, result: Result, now_s: float) -> Verdict:
        """The broker has not stored the batch, or has and cannot vouch for the copies. Returns what that means."""
        batch = self.batch
        assert batch is not None
        batch.error = KafkaError(result.error, result.message or None)
        verdict = verdict_of(result.error, len(batch.records))
        if batch.perhaps_stored and verdict in (Verdict.ANEW, Verdict.SMALLER):
            verdict = Verdict.FAILED  # it may be stored as it was: as part of another one it would be stored twice
        batch.perhaps_stored |= verdict is Verdict.MOVED or result.error in _PERHAPS_STORED
        match verdict:
            case Verdict.AGAIN | Verdict.MOVED:
                self._wait(now_s)
            case Verdict.ANEW:
                logger.warning(
                    "a batch does not follow what the log has of this producer, and is sent as another one's: {}",
                    batch.error.str(),
                    topic=self.topic,
                    partition=self.number,
                )
                self._drop_identity()
                self._put_back(now_s)
            case Verdict.SMALLER:
                self._records_max = len(batch.records) // 2
                self._put_back(now_s)
            case Verdict.FAILED:
                self.fail(batch.error)
        return verdict

    def _wait(self, now_s: float) -> None:
        self.asked = False
        self.retry_at_s = now_s + next(self._delays)

    def _put_back(self, now_s: float) -> None:
        """The log does not have the batch: its records go into another one."""
        self._wait(now_s)
        records = self._end().records
        self.waiting.extendleft(reversed(records))
        self.waiting_bytes += sum(record.size for record in records)

    def _end(self) -> Batch:
        batch = self.batch
        assert batch is not None
        self.batch, self.asked = None, False
        return batch

    def _drop_identity(self) -> None:
        self._dropped, self._identity = self._identity, None

    def fail(self, error: KafkaError) -> None:
        """Give the batch up: for this reason, or as unknown if the log may have it."""
        batch = self._end()
        if batch.perhaps_stored:
            error = KafkaError(KafkaError._MSG_TIMED_OUT, error.str())
        if delivery_of(error) is Delivery.UNKNOWN:
            self._drop_identity()
        for record in batch.records:
            tell(record, None, error)

    def expire(self, now_s: float, why_unsent: Callable[["Partition"], KafkaError]) -> None:
        """Give up what is due. A batch ends with the oldest of its records, for the last reason that a broker gave."""
        if self.batch is not None and self.batch.records[0].due_s <= now_s and not self.asked:
            self.fail(self.batch.error or why_unsent(self))
        while self.batch is None and self.waiting and self.waiting[0].due_s <= now_s:
            record = self.waiting.popleft()
            self.waiting_bytes -= record.size
            tell(record, None, why_unsent(self))

    def end(self, error: KafkaError) -> None:
        """Give everything up."""
        if self.batch is not None:
            self.batch.perhaps_stored |= self.asked
            self.fail(error)
        waiting, self.waiting, self.waiting_bytes = self.waiting, deque(), 0
        for record in waiting:
            tell(record, None, error)


def tell(record: Outgoing, acknowledged: Acknowledged | None, error: KafkaError | None) -> None:
    """Report the fate of a record; what goes wrong there must not keep the others from being told."""
    try:
        record.delivered(record, acknowledged, error)
    except Exception as failure:
        logger.opt(exception=failure).error("a delivery cannot be reported")
