"""The brokers as a producer sees them: who leads each partition, and a connection to each that it needs."""

import asyncio
import struct
from collections.abc import Callable
from typing import Final

from loguru import logger

from common.backoff import delays_s
from common.config.kafka import Brokers
from common.kafka.produce import requests
from common.kafka.produce.connection import Connection, connect
from common.kafka.produce.requests import Metadata, Topic

RECONNECT_S: Final = 0.2
RECONNECT_MAX_S: Final = 1.0
REFRESH_S: Final = 300.0
"""How often it looks for partitions that were added, in seconds."""
_UNKNOWN: Final = Topic(0, {})

Address = tuple[str, int]


class Cluster:
    """It belongs to the event loop."""

    def __init__(self, brokers: Brokers, client_id: str, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a connection or a leader has been found."""
        self._brokers = brokers
        self._client_id = client_id
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._bootstrap = [_address(server) for server in brokers.servers.split(",")]
        self._addresses: dict[int, Address] = {}
        self._topics: dict[str, Topic] = {}
        self._connections: dict[Address, Connection] = {}
        self._connecting: dict[Address, asyncio.Task[Connection | None]] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._next_refresh: asyncio.TimerHandle | None = None
        self._refreshed_s = -REFRESH_S
        self.on_all_lost: Callable[[], None] = lambda: None
        """Called when the last connection has ended."""

    def topic(self, name: str) -> Topic:
        """What is known of a topic; nothing, until its metadata have come."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _UNKNOWN
            self.refresh()
        return topic

    def leader(self, topic: str, partition: int) -> Connection | None:
        """The connection to the leader of a partition. If it is not there yet, it is looked for."""
        address = self._addresses.get(self.topic(topic).leaders.get(partition, -1))
        if address is None:
            self.refresh()
            return None
        connection = self._connections.get(address)
        if connection is None:
            self._begin_to_connect(address)
            if self._loop.time() - self._refreshed_s > RECONNECT_S:
                self.refresh()  # another may have taken its place
        elif connection.is_open:
            return connection
        return None

    def any(self) -> Connection | None:
        """A connection to whichever broker."""
        return next((connection for connection in self._connections.values() if connection.is_open), None)

    def refresh(self) -> None:
        """Begin to ask who leads what, if that is not under way."""
        if self._refreshing is None and self._topics:
            self._refreshing = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        """Ask until each topic that there is has a leader for each partition."""
        try:
            for delay_s in delays_s(RECONNECT_MAX_S):
                try:
                    complete = self._learn(await self.describe(self._topics))
                except OSError:
                    complete = False
                except Exception as error:
                    logger.opt(exception=error).error("the brokers' answer cannot be read")
                    complete = False
                if complete:
                    return
                await asyncio.sleep(delay_s)
        finally:
            self._refreshing = None

    def _learn(self, metadata: Metadata) -> bool:
        """Returns whether nothing is missing."""
        self._refreshed_s = self._loop.time()
        if self._next_refresh is not None:
            self._next_refresh.cancel()
        self._next_refresh = self._loop.call_later(REFRESH_S, self.refresh)
        self._addresses = metadata.brokers
        self._topics |= metadata.topics
        self._on_change()
        return all(
            not topic.error and topic.leaders and min(topic.leaders.values()) >= 0 for topic in metadata.topics.values()
        )

    async def describe(self, topics: "dict[str, Topic] | list[str]") -> Metadata:
        """What a broker says of these topics. Raises `OSError` when none answers."""
        connection = self.any()
        if connection is None:
            connection = await self._connect_to_any()
        try:
            return requests.metadata(await connection.ask(requests.METADATA, requests.metadata_request(topics)))
        except (IndexError, struct.error) as error:
            raise ConnectionError(f"the brokers' answer cannot be read: {error}") from error

    async def _connect_to_any(self) -> Connection:
        """Try all that are known, at the same time: one that is frozen must not keep the others from answering."""
        addresses = dict.fromkeys([*self._addresses.values(), *self._bootstrap])
        attempts = [self._begin_to_connect(address) for address in addresses]
        for attempt in asyncio.as_completed(list(map(asyncio.shield, attempts))):
            if (connection := await attempt) is not None:
                return connection
        raise ConnectionError("no broker can be reached")

    def _begin_to_connect(self, address: Address) -> "asyncio.Task[Connection | None]":
        task = self._connecting.get(address)
        if task is None:
            task = self._connecting[address] = self._loop.create_task(self._connect(address))
        return task

    async def _connect(self, address: Address) -> Connection | None:
        """Connect, or come to know after a while that there is no connection now."""
        try:
            connection = await connect(self._brokers, self._client_id, *address, lambda lost: self._lost(address, lost))
        except OSError:
            await asyncio.sleep(RECONNECT_S)
            return None
        finally:
            del self._connecting[address]
        if not connection.is_open:
            return None
        self._connections[address] = connection
        self._on_change()
        return connection

    def _lost(self, address: Address, connection: Connection) -> None:
        if self._connections.get(address) is connection:
            del self._connections[address]
            if not self._connections:
                self.on_all_lost()

    def close(self) -> None:
        """End all connections, and what is under way."""
        for task in [*self._connecting.values(), self._refreshing]:
            if task is not None:
                task.cancel()
        if self._next_refresh is not None:
            self._next_refresh.cancel()
        for connection in list(self._connections.values()):
            connection.abort()


def _address(server: str) -> Address:
    host, _, port = server.strip().rpartition(":")
    return host.strip("[]"), int(port)
