"""Sends records to the log from an event loop, and tells each what became of it.

Whatever waits for the partitions of one broker goes there in one request. A record is acknowledged when all copies in
sync have it, is stored once, and in the order of the calls within its partition.
"""

import asyncio
import struct
import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError
from loguru import logger

from common.config.kafka import Brokers
from common.kafka.clients import (
    DELIVERY_TIMEOUT_MS,
    PRODUCER_BUFFER_KIB,
    PRODUCER_SOCKET_TIMEOUT_MS,
    Delivery,
    delivery_of,
)
from common.kafka.produce import requests
from common.kafka.produce.batch import BATCH_BYTES_MAX, Identity, Outgoing, partition_of
from common.kafka.produce.cluster import Cluster
from common.kafka.produce.connection import Connection
from common.kafka.produce.partition import Partition, Verdict, tell

STORED_WITHIN_MS: Final = PRODUCER_SOCKET_TIMEOUT_MS - 500
"""A broker that waits for a copy for longer says so, before the connection counts as dead."""
REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
"""A broker takes requests of up to 100 MiB (`socket.request.max.bytes`)."""
CLOCK_S: Final = 0.001
"""What the loop's clock counts: uvloop's has whole milliseconds."""
TICK_S: Final = 0.1
"""How often it looks after what could not be sent, and gives up what is due."""


class Producer:
    """It belongs to the event loop in which it was made."""

    def __init__(self, brokers: Brokers, client_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.cluster = Cluster(brokers, client_id, self._pump)
        self._partitions: dict[tuple[str, int], Partition] = {}
        """By topic and number."""
        self._homeless: dict[str, Partition] = {}
        """What goes by key into a topic whose partitions are not known, and what follows it there."""
        self._ready: dict[Partition, None] = {}
        """Those that have something to send and wait for no answer, in the order in which they got it."""
        self._fresh: Identity | None = None
        """What partitions write under that have no identity of their own yet."""
        self._identifying: asyncio.Task[None] | None = None
        self._identity_error = 0
        self._tick: asyncio.TimerHandle | None = None
        self._busy = False
        """Whether records are being told their fates: what these send meanwhile goes with what comes next."""
        self._closed = False

    def produce(self, records: Iterable[Outgoing]) -> None:
        """Send these as soon as their partitions can take them. Each is told its fate, at the latest
        `DELIVERY_TIMEOUT_MS` from now, or when a broker that was asked until then has been silent for
        `PRODUCER_SOCKET_TIMEOUT_MS`."""
        due_s = self._loop.time() + DELIVERY_TIMEOUT_MS / 1000
        waiting_bytes = sum(each.waiting_bytes for each in (*self._partitions.values(), *self._homeless.values()))
        free_bytes = PRODUCER_BUFFER_KIB * 1024 - waiting_bytes
        for record in records:
            record.due_s = due_s
            size = record.size
            if self._closed:
                tell(record, None, KafkaError(KafkaError._PURGE_QUEUE))
            elif size > BATCH_BYTES_MAX:
                tell(record, None, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
            elif size > free_bytes:
                tell(record, None, KafkaError(KafkaError._QUEUE_FULL))
            else:
                free_bytes -= size
                self._queue(record, size)
        self._pump()

    def _queue(self, record: Outgoing, size: int) -> None:
        topic, number = record.topic, record.partition
        if topic in self._homeless:
            return self._homeless[topic].queue(record, size)
        if number < 0:
            count = len(self.cluster.topic(topic).leaders)
            if not count:
                self._homeless[topic] = Partition(topic, number)
                return self._homeless[topic].queue(record, size)
            number = partition_of(record.key, count)
        partition = self._partitions.get((topic, number))
        if partition is None:
            partition = self._partitions[topic, number] = Partition(topic, number)
        partition.queue(record, size)
        if not partition.asked:
            self._ready[partition] = None
        return None

    def _pump(self) -> None:
        """Send whatever can be sent now, and give up what is due."""
        if self._busy:
            return  # whoever is busy does it
        now_s = self._loop.time()
        self._busy = True
        try:
            self._give_up(now_s)
        finally:
            self._busy = False
        if self._closed:
            return
        leaders: dict[Connection, list[Partition]] = {}
        next_s = now_s + TICK_S
        for partition in list(self._ready):
            if partition.idle:
                del self._ready[partition]
            elif partition.retry_at_s > now_s + CLOCK_S:
                next_s = min(next_s, partition.retry_at_s)
            elif leader := self.cluster.leader(partition.topic, partition.number):
                leaders.setdefault(leader, []).append(partition)
        for leader, partitions in leaders.items():
            self._send(leader, partitions)
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
        if self._ready or self._homeless:
            self._tick = self._loop.call_at(next_s, self._pump)

    def _give_up(self, now_s: float) -> None:
        """Tell those whose time is over. What goes by key gets its partition, if the topic's are known by now."""
        for topic, homeless in list(self._homeless.items()):
            if self.cluster.topic(topic).leaders:
                del self._homeless[topic]
                for record in homeless.waiting:
                    self._queue(record, record.size)
            else:
                homeless.expire(now_s, self._why_unsent)
                if homeless.idle:
                    self._homeless.pop(topic, None)
        for partition in list(self._ready):
            partition.expire(now_s, self._why_unsent)

    def _send(self, leader: Connection, partitions: Iterable[Partition]) -> None:
        """Ask a broker to store the next batches of these partitions."""
        asked: dict[tuple[str, int], Partition] = {}
        batches: dict[str, list[tuple[int, bytes]]] = {}
        size = 0
        at_ms = time.time_ns() // 1_000_000
        for partition in partitions:
            batch = partition.next_batch(self._fresh, at_ms)
            if batch is None:
                if self._identifying is None:
                    self._identifying = self._loop.create_task(self._identify())
                continue
            size += len(batch.encoded)
            if asked and size > REQUEST_BYTES_MAX:
                self._ask(leader, asked, batches)
                asked, batches, size = {}, {}, len(batch.encoded)
            asked[partition.topic, partition.number] = partition
            batches.setdefault(partition.topic, []).append((partition.number, batch.encoded))
        if asked:
            self._ask(leader, asked, batches)

    def _ask(
        self,
        leader: Connection,
        asked: dict[tuple[str, int], Partition],
        batches: dict[str, list[tuple[int, bytes]]],
    ) -> None:
        for partition in asked.values():
            partition.asked = True
            del self._ready[partition]
        body = requests.produce_request(batches, STORED_WITHIN_MS)
        leader.request(requests.PRODUCE, body, lambda answer: self._answered(leader, asked, answer))

    def _answered(self, leader: Connection, asked: dict[tuple[str, int], Partition], answer: bytes | None) -> None:
        now_s = self._loop.time()
        self._busy = True
        try:
            for result in self._results(leader, answer):
                if (partition := asked.get((result.topic, result.partition))) is None or self._closed:
                    continue
                # An acknowledgement without an offset is none.
                if result.error == 0 and result.offset >= 0:
                    partition.stored(result)
                elif result.error == 0:
                    continue
                elif partition.refused(result, now_s) is Verdict.MOVED:
                    self.cluster.refresh()
                del asked[result.topic, result.partition]
                self._go_on(partition)
        finally:
            self._busy = False
        if self._closed:
            return
        for partition in asked.values():
            partition.unanswered(now_s)
            self._go_on(partition)
        if self._ready:
            self._pump()

    def _results(self, leader: Connection, answer: bytes | None) -> list[requests.Result]:
        if answer is None:
            return []
        try:
            return requests.produced(answer)
        except (IndexError, OverflowError, struct.error, UnicodeDecodeError) as error:
            logger.opt(exception=error).error("a broker's answer cannot be read")
            leader.abort()
            return []

    def _go_on(self, partition: Partition) -> None:
        if not partition.idle:
            self._ready[partition] = None

    async def _identify(self) -> None:
        """Get an identity that nobody has used."""
        try:
            answers = await self.cluster.ask(requests.IDENTITY, requests.identity_request(), requests.identity)
            for error, identity in answers:
                self._identity_error = error
                if error == 0:
                    self._fresh = identity
                    return
            await asyncio.sleep(TICK_S)
        except OSError:
            await asyncio.sleep(TICK_S)
        finally:
            self._identifying = None
            if self._fresh is not None:
                self._pump()

    def _why_unsent(self, partition: Partition) -> KafkaError:
        """Why nothing was sent to a partition: its topic, our rights, or nobody who could be asked."""
        topic = self.cluster.topic(partition.topic)
        error = KafkaError(KafkaError._TIMED_OUT_QUEUE, "it could not be sent to any broker in time")
        if topic.error:
            error = KafkaError(topic.error)
        elif partition.number >= 0 and topic.leaders and partition.number not in topic.leaders:
            error = KafkaError(KafkaError._UNKNOWN_PARTITION)
        elif self._identity_error and partition.needs_identity:
            error = KafkaError(self._identity_error)
        if delivery_of(error) is Delivery.UNKNOWN:  # of a record that was sent
            error = KafkaError(KafkaError._TIMED_OUT_QUEUE, error.str())
        return error

    def close(self) -> None:
        """End the connections. What is under way fails: as unknown, if the log may have it."""
        self._closed = True
        if self._tick is not None:
            self._tick.cancel()
        if self._identifying is not None:
            self._identifying.cancel()
        for partition in [*self._partitions.values(), *self._homeless.values()]:
            partition.end(KafkaError(KafkaError._PURGE_QUEUE))
        self.cluster.close()
