"""What a partition has yet to get, and what an answer about its last batch means. No I/O.

A partition has one batch under way at a time. So batches arrive in order whatever is sent again, and a broker that has
one already says where: it remembers the last five of each identity (KIP-98; Kafka's documentation, "Idempotent
Delivery").
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Final

from confluent_kafka import KafkaError
from loguru import logger

from common.backoff import delays_s
from common.kafka.broker import NO_LEADER_YET
from common.kafka.clients import Delivery, delivery_of
from common.kafka.produce.batch import BATCH_BYTES_MAX, Acknowledged, Identity, Outgoing, encode
from common.kafka.produce.requests import Result

RETRY_S: Final = 0.1
RETRY_MAX_S: Final = 1.0


class Verdict(Enum):
    """What an error of a broker says of a batch."""

    AGAIN = "again"
    """It may take it in a moment."""
    MOVED = "moved"
    """Another broker may lead the partition."""
    ANEW = "anew"
    """It is not in the log, and does not follow what the log has of this identity: it needs another one."""
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

    def __init__(self, records: list[Outgoing], identity: Identity, encoded: bytes) -> None:
        self.records = records
        self.identity = identity
        self.encoded = encoded
        self.perhaps_stored = False
        """Whether the log may have it: it was sent, and no answer said otherwise."""
        self.error: KafkaError | None = None
        """The last that a broker said."""


class Partition:
    """The records that wait for a partition, and the batch under way."""

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
        self._delays: Iterator[float] = iter(())
        self._identity: Identity | None = None
        self._sequence = 0
        self._records_max: int | None = None

    def queue(self, record: Outgoing, size: int) -> None:
        """Let a record wait behind the others."""
        self.waiting.append(record)
        self.waiting_bytes += size

    def leave(self) -> list[Outgoing]:
        """The records that wait, which do not wait here any longer."""
        records = list(self.waiting)
        self.waiting.clear()
        self.waiting_bytes = 0
        return records

    def next_batch(self, identity: Identity | None, at_ms: int) -> Batch | None:
        """The batch to send now: the one under way, or a new one if somebody may write it. None if there is nothing."""
        if self.batch is not None or identity is None or not self.waiting:
            return self.batch
        if identity != self._identity:
            self._identity, self._sequence = identity, 0
        records = self._take()
        self.batch = Batch(records, identity, encode(records, identity, self._sequence, at_ms))
        self._delays = delays_s(RETRY_MAX_S, RETRY_S)
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
        self._sequence += len(batch.records)
        self._records_max = None
        number, offset, at = self.number, result.offset, result.at
        for place, record in enumerate(batch.records, offset):
            tell(record, Acknowledged(number, place, at), None)

    def unanswered(self, now_s: float) -> None:
        """The connection has ended before an answer came."""
        assert self.batch is not None
        self.asked = False
        self.batch.perhaps_stored = True
        self._wait(now_s)

    def refused(self, result: Result, now_s: float) -> tuple[Verdict, bool]:
        """The broker has not stored the batch, or not all copies have it. Returns what that means, and whether another
        identity is needed."""
        batch = self.batch
        assert batch is not None
        self.asked = False
        batch.error = KafkaError(result.error, result.message or None)
        batch.perhaps_stored |= result.error in _PERHAPS_STORED
        verdict = verdict_of(result.error, len(batch.records))
        renew = verdict is Verdict.ANEW
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
                self._put_back(now_s)
            case Verdict.SMALLER:
                self._records_max = len(batch.records) // 2
                self._put_back(now_s)
            case Verdict.FAILED:
                renew = self.fail(batch.error)
        return verdict, renew

    def _wait(self, now_s: float) -> None:
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

    def fail(self, error: KafkaError) -> bool:
        """Give the batch up. Returns whether its identity must not be used again: the log may have the batch or not, so
        that nobody knows which sequence it expects."""
        batch = self._end()
        if batch.perhaps_stored:
            error = KafkaError(KafkaError._MSG_TIMED_OUT, error.str())
        for record in batch.records:
            tell(record, None, error)
        return delivery_of(error) is Delivery.UNKNOWN

    def expire(self, now_s: float, reason: KafkaError) -> bool:
        """Give up what is due, for this reason if no broker has said another. Returns the same as `fail`."""
        renew = False
        if self.batch is not None and self.batch.records[0].due_s <= now_s and not self.asked:
            renew = self.fail(self.batch.error or reason)
        while self.batch is None and self.waiting and self.waiting[0].due_s <= now_s:
            record = self.waiting.popleft()
            self.waiting_bytes -= record.size
            tell(record, None, reason)
        return renew


def tell(record: Outgoing, acknowledged: Acknowledged | None, error: KafkaError | None) -> None:
    """Report the fate of a record; what goes wrong there must not keep the others from being told."""
    try:
        record.delivered(record, acknowledged, error)
    except Exception as failure:
        logger.opt(exception=failure).error("a delivery cannot be reported")
