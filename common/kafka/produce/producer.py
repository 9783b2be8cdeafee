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
from common.kafka.clients import DELIVERY_TIMEOUT_MS, PRODUCER_BUFFER_KIB, PRODUCER_SOCKET_TIMEOUT_MS
from common.kafka.produce import requests
from common.kafka.produce.batch import BATCH_BYTES_MAX, Identity, Outgoing, partition_of
from common.kafka.produce.cluster import Cluster
from common.kafka.produce.connection import Connection
from common.kafka.produce.partition import Partition, Verdict, tell

REQUEST_BYTES_MAX: Final = 16 * 1024 * 1024
"""A broker takes requests of up to 100 MiB (`socket.request.max.bytes`)."""
TICK_S: Final = 0.1
"""How often it looks after what could not be sent, and gives up what is due."""
_BY_KEY: Final = -1


class Producer:
    """It belongs to the event loop in which it was made."""

    def __init__(self, brokers: Brokers, client_id: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.cluster = Cluster(brokers, client_id, self._pump)
        self._partitions: dict[tuple[str, int], Partition] = {}
        """By topic and number. Those of number -1 hold what goes by key into a topic whose partitions are unknown."""
        self._ready: dict[Partition, None] = {}
        """Partitions that may have something to send, in the order in which they got it."""
        self._identity: Identity | None = None
        self._identifying: asyncio.Task[None] | None = None
        self._identity_error = 0
        self._tick: asyncio.TimerHandle | None = None

    def produce(self, records: Iterable[Outgoing]) -> None:
        """Send these as soon as their partitions can take them. Each is told its fate, at the latest
        `DELIVERY_TIMEOUT_MS` from now, or when a broker that was asked until then has been silent for
        `PRODUCER_SOCKET_TIMEOUT_MS`."""
        due_s = self._loop.time() + DELIVERY_TIMEOUT_MS / 1000
        waiting_bytes = sum(partition.waiting_bytes for partition in self._partitions.values())
        free_bytes = PRODUCER_BUFFER_KIB * 1024 - waiting_bytes
        for record in records:
            record.due_s = due_s
            size = record.size
            if size > BATCH_BYTES_MAX:
                tell(record, None, KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
            elif size > free_bytes:
                tell(record, None, KafkaError(KafkaError._QUEUE_FULL))
            else:
                free_bytes -= size
                self._queue(record, size)
        self._pump()

    def _queue(self, record: Outgoing, size: int) -> None:
        number = record.partition
        if number < 0 and (count := len(self.cluster.topic(record.topic).leaders)):
            number = partition_of(record.key, count)
        partition = self._partitions.get((record.topic, number))
        if partition is None:
            partition = self._partitions[record.topic, number] = Partition(record.topic, number)
        partition.queue(record, size)
        if not partition.asked:
            self._ready[partition] = None

    def _pump(self) -> None:
        """Send whatever can be sent now."""
        now_s = self._loop.time()
        leaders: dict[Connection, list[Partition]] = {}
        for partition in list(self._ready):
            if partition.number == _BY_KEY:
                self._settle_in(partition)
            elif partition.batch is None and not partition.waiting:
                del self._ready[partition]
            elif partition.retry_at_s <= now_s and (leader := self.cluster.leader(partition.topic, partition.number)):
                leaders.setdefault(leader, []).append(partition)
        for leader, partitions in leaders.items():
            self._send(leader, partitions)
        if self._ready and self._tick is None:
            self._tick = self._loop.call_later(TICK_S, self._on_tick)

    def _settle_in(self, homeless: Partition) -> None:
        """Give each record its partition, if the topic's are known by now."""
        if self.cluster.topic(homeless.topic).leaders:
            del self._ready[homeless]
            for record in homeless.leave():
                self._queue(record, record.size)

    def _send(self, leader: Connection, partitions: Iterable[Partition]) -> None:
        """Ask a broker to store the next batches of these partitions."""
        if self._identity is None and self._identifying is None:
            self._identifying = self._loop.create_task(self._identify(leader))
        asked: dict[tuple[str, int], Partition] = {}
        batches: dict[str, list[tuple[int, bytes]]] = {}
        size = 0
        at_ms = time.time_ns() // 1_000_000
        for partition in partitions:
            batch = partition.next_batch(self._identity, at_ms)
            if batch is None:
                continue  # until there is an identity
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
        body = requests.produce_request(batches, PRODUCER_SOCKET_TIMEOUT_MS)
        leader.request(requests.PRODUCE, body, lambda answer: self._answered(leader, asked, answer))

    def _answered(self, leader: Connection, asked: dict[tuple[str, int], Partition], answer: bytes | None) -> None:
        now_s = self._loop.time()
        for result in self._results(leader, answer):
            partition = asked.pop((result.topic, result.partition), None)
            if partition is None:
                continue
            if result.error == 0:
                partition.stored(result)
            else:
                verdict, renew = partition.refused(result, now_s)
                if verdict is Verdict.MOVED:
                    self.cluster.refresh()
                if renew:
                    self._identity = None
            self._go_on(partition)
        for partition in asked.values():
            partition.unanswered(now_s)
            self._go_on(partition)
            self.cluster.refresh()
        if self._ready:
            self._pump()

    def _results(self, leader: Connection, answer: bytes | None) -> list[requests.Result]:
        if answer is None:
            return []
        try:
            return requests.produced(answer)
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            logger.opt(exception=error).error("a broker's answer cannot be read")
            leader.abort()
            return []

    def _go_on(self, partition: Partition) -> None:
        if partition.batch is not None or partition.waiting:
            self._ready[partition] = None

    async def _identify(self, broker: Connection) -> None:
        """Get an identity that nobody has used."""
        try:
            answer = await broker.ask(requests.IDENTITY, requests.identity_request())
            self._identity_error, identity = requests.identity(answer)
            if self._identity_error == 0:
                self._identity = identity
        except (OSError, IndexError, struct.error):
            pass  # the next tick asks again
        finally:
            self._identifying = None
        if self._identity is not None:
            self._pump()

    def _on_tick(self) -> None:
        self._tick = None
        now_s = self._loop.time()
        for partition in list(self._ready):
            if partition.expire(now_s, self._why_unsent(partition)):
                self._identity = None
        self._pump()

    def _why_unsent(self, partition: Partition) -> KafkaError:
        """Why nothing was sent to a partition: its topic, our rights, or nobody who could be asked."""
        topic = self.cluster.topic(partition.topic)
        if topic.error or self._identity_error:
            return KafkaError(topic.error or self._identity_error)
        if topic.leaders and partition.number not in topic.leaders and partition.number != _BY_KEY:
            return KafkaError(KafkaError._UNKNOWN_PARTITION)
        return KafkaError(KafkaError._TIMED_OUT_QUEUE, "it could not be sent to any broker in time")

    def close(self) -> None:
        """End the connections; what is under way fails."""
        if self._tick is not None:
            self._tick.cancel()
        if self._identifying is not None:
            self._identifying.cancel()
        self.cluster.close()
