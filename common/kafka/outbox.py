"""Deposits and restocks on their way into the log: a request that enters one is answered when the log has it.

The event is written in the transaction that does what it says, and deleted from `outbox` when the log has acknowledged
it. So an event of a committed transaction is in the log, or it is in the table and gets there: by the request itself,
by a repeat of it under the same key, or by whichever process next looks for those that were left behind. It may get
there twice, with the same id.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from confluent_kafka import KafkaException
from loguru import logger

from common.codec import encode
from common.config.process import Process
from common.database import Database, DatabaseUnavailable
from common.errors import describe
from common.events import Event
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.kafka.async_publisher import AsyncPublisher
from common.postgres import AsyncConn

ACKNOWLEDGED_WITHIN_S: Final = 8.0
SWEEP_EVERY_S: Final = 2.0
LEFT_AFTER_S: Final = 20.0
"""An event that is older than this was left behind: longer than a request takes."""
AT_ONCE_MAX: Final = 500
PROBE_S: Final = 1.0

_ADD: Final = """
    INSERT INTO outbox (event_id, topic, record_key, value) VALUES (%s, %s, %s, %s) ON CONFLICT (event_id) DO NOTHING
"""
_OF_KEY: Final = "SELECT event_id, topic, record_key, value FROM outbox WHERE topic = %s AND record_key = %s LIMIT %s"
_LEFT: Final = """
    SELECT event_id, topic, record_key, value FROM outbox
    WHERE stored_at < now() - make_interval(secs => %s) ORDER BY stored_at LIMIT %s
"""
_REMOVE: Final = "DELETE FROM outbox WHERE event_id = ANY(%s)"


class Stored(NamedTuple):
    """A row of the table."""

    event_id: str
    topic: str
    record_key: str
    value: bytes


def stored(event: Event) -> Stored:
    """The row of an event."""
    return Stored(event.id, event.topic, event.partitionkey, encode(event))


async def add(connection: AsyncConn, row: Stored) -> None:
    """Write the row, in the transaction that does what its event says."""
    await connection.execute(_ADD, row)


class Outbox:
    """The events of one topic. It belongs to the event loop."""

    def __init__(self, process: Process, database: Database, topic: str) -> None:
        self._process = process
        self._database = database
        self._topic = topic
        self._publisher: AsyncPublisher | None = None
        self._acknowledged: set[str] = set()
        """The ids of rows that can be deleted."""
        self._away: Problem | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the database, and begin to look for events that were left behind."""
        await self._database.open()
        self._publisher = AsyncPublisher(
            self._process.brokers, f"{self._process.instance}-outbox", linger_s=0, deadline_s=ACKNOWLEDGED_WITHIN_S
        )
        self._sweeping = asyncio.create_task(self._sweep_for_ever())

    async def close(self) -> None:
        """Wait for what is in flight, and close the database."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._publisher is not None:
            await self._publisher.close()
        await self._database.close()

    def check_open(self) -> None:
        """Raises `ProblemError` 503 while the log is known to be away: then nothing is entered."""
        if self._away is not None:
            raise ProblemError(self._away)

    async def publish(self, rows: Iterable[Stored]) -> None:
        """Return when the log has these events. Raises `ProblemError` 503: they are entered, and get there later."""
        assert self._publisher is not None, "open comes first"
        rows = list(rows)
        sent = [self._publisher.send(row.topic, row.record_key.encode(), row.value, 0) for row in rows]
        failed: Exception | None = None
        for row, result in zip(rows, await asyncio.gather(*sent, return_exceptions=True), strict=True):
            if isinstance(result, TimeoutError | KafkaException):
                failed = result
            elif isinstance(result, BaseException):
                raise result
            else:
                self._acknowledged.add(row.event_id)
        if failed is not None:
            self._report_away(describe(failed) if isinstance(failed, KafkaException) else "Kafka does not answer")
            raise ProblemError(
                problem.unavailable(
                    "this is entered, and the log does not have it yet: it gets there when Kafka is back. Send it "
                    "again under its Idempotency-Key only; without one it would be entered twice",
                    retry_after_s=5,
                )
            ) from None

    async def publish_of(self, record_key: str) -> None:
        """Return when the log has all events of a key. Raises `ProblemError` 503 and `DatabaseUnavailable`."""
        await self.publish(await self._rows(_OF_KEY, (self._topic, record_key, AT_ONCE_MAX)))

    async def _rows(self, query: str, parameters: Sequence[object]) -> list[Stored]:
        async def read(connection: AsyncConn) -> list[Stored]:
            rows = await (await connection.execute(query.encode(), parameters)).fetchall()
            return [Stored(event_id, topic, key, bytes(value)) for event_id, topic, key, value in rows]

        return await self._database.reads.read(read)

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            try:
                await self.sweep()
            except (DatabaseUnavailable, ProblemError):
                pass  # both are reported elsewhere, and it is tried again
            except Exception as error:
                logger.opt(exception=error).error("the outbox cannot be swept: {}", describe(error))

    async def sweep(self) -> None:
        """Delete the rows of which the log has the events, and publish those that were left behind."""
        if self._acknowledged:
            gone = list(self._acknowledged)

            async def remove(connection: AsyncConn) -> None:
                await connection.execute(_REMOVE, (gone,))

            await self._database.writes.run(remove)
            self._acknowledged.difference_update(gone)
        if self._away is not None:
            assert self._publisher is not None
            if unreachable := await asyncio.to_thread(self._publisher.unreachable, self._topic, PROBE_S):
                return self._report_away(unreachable)
            logger.info("topic {!r} takes records again", self._topic)
            self._away = None
        if left := await self._rows(_LEFT, (LEFT_AFTER_S, AT_ONCE_MAX)):
            await self.publish(left)
        return None

    def _report_away(self, reason: str) -> None:
        if self._away is None:
            logger.warning("refusing what would go into topic {!r}: {}", self._topic, reason)
        self._away = problem.unavailable(f"{reason}; nothing was changed by this request", retry_after_s=5)
