"""The brokers as a producer sees them: who leads each partition, and a connection to each that it needs."""

import asyncio
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from common.backoff import delays_s
from common.config.kafka import Brokers
from common.kafka.produce import requests
from common.kafka.produce.connection import Connection, connect
from common.kafka.produce.requests import NO_LEADER, Metadata, Topic

T = TypeVar("T")
Address = tuple[str, int]

RECONNECT_S: Final = 0.2
RECONNECT_MAX_S: Final = 1.0
REFRESH_AGAIN_S: Final = 0.1
"""It asks no sooner again who leads what."""
OTHERS_S: Final = 0.1
"""How long it waits for a second broker's word when one has answered. One that is frozen never does."""
REFRESH_S: Final = 300.0
"""How often it looks for partitions that were added, in seconds."""
_UNKNOWN: Final = Topic(0, {})


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
        self._reconnect: dict[Address, Iterator[float]] = {}
        """The waits before the next attempts, of each address that was not reached."""
        self._refreshing: asyncio.Task[None] | None = None
        self._next_refresh: asyncio.TimerHandle | None = None
        self._refreshed_s = -REFRESH_S
        self._closed = False
        self.on_all_lost: Callable[[], None] = lambda: None
        """Called when the last connection has ended."""

    def topic(self, name: str) -> Topic:
        """What is known of a topic; nothing, until a broker has answered."""
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _UNKNOWN
        if not topic.leaders:
            self.refresh()
        return topic

    def leader(self, topic: str, partition: int) -> Connection | None:
        """The connection to the leader of a partition. If it is not there, it is looked for."""
        address = self._addresses.get(self.topic(topic).leaders.get(partition, NO_LEADER).node)
        if address is None:
            self.refresh()
            return None
        connection = self._connections.get(address)
        if connection is None:
            self._begin_to_connect(address)
            self.refresh()  # another may have taken its place
        elif connection.is_open:
            return connection
        return None

    def refresh(self) -> None:
        """Begin to ask who leads what, unless that is under way or has just been done."""
        recently = self._loop.time() - self._refreshed_s < REFRESH_AGAIN_S
        if self._topics and self._refreshing is None and not recently and not self._closed:
            self._refreshing = self._loop.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            metadata = await self.describe(self._topics)
        except OSError:
            return  # whoever has something to send will look again
        finally:
            self._refreshing = None
            self._refreshed_s = self._loop.time()
        known = {name: self._topics[name] for name, topic in metadata.topics.items() if not topic.error}
        self._addresses = metadata.brokers
        self._topics |= requests.newest([metadata, Metadata({}, known)]).topics
        if self._next_refresh is not None:
            self._next_refresh.cancel()
        self._next_refresh = self._loop.call_later(REFRESH_S, self.refresh)
        self._on_change()

    async def describe(self, topics: Iterable[str]) -> Metadata:
        """What the brokers say of these topics. Raises `OSError` when none answers."""
        request = requests.metadata_request(topics)
        return requests.newest(await self.ask(requests.METADATA, request, requests.metadata))

    async def ask(self, api: tuple[int, int], body: bytes, decode: Callable[[bytes], T]) -> list[T]:
        """The answers of those that are connected: at least one, and whatever comes soon after the first. All are asked
        at the same time: one that is frozen must not keep the others from answering, and one that lags behind is not
        alone. Raises `OSError` when none answers."""

        async def asked(connection: Connection) -> T:
            try:
                return decode(await connection.ask(api, body))
            except (IndexError, OverflowError, struct.error, UnicodeDecodeError) as error:
                connection.abort()
                raise ConnectionError(f"the broker's answer cannot be read: {error}") from error

        if self._closed:
            raise ConnectionError("it is closed")
        connections = [connection for connection in self._connections.values() if connection.is_open]
        if not connections:
            connections.append(await self._connect_to_any())
        waiting = {self._loop.create_task(asked(connection)) for connection in connections}
        answers: list[T] = []
        failure: BaseException | None = None
        try:
            while waiting:
                ended, waiting = await asyncio.wait(
                    waiting,
                    timeout=OTHERS_S if answers else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                answers += [task.result() for task in ended if task.exception() is None]
                failure = next(filter(None, (task.exception() for task in ended)), failure)
                if not ended:
                    break
        finally:
            for task in waiting:
                task.cancel()
        if not answers:
            assert failure is not None, "whoever was asked has answered or failed"
            raise failure
        return answers

    async def _connect_to_any(self) -> Connection:
        """Try all that are known, at the same time."""
        addresses = dict.fromkeys([*self._addresses.values(), *self._bootstrap])
        attempts = [self._begin_to_connect(address) for address in addresses]
        for attempt in asyncio.as_completed(attempts):
            if (connection := await attempt) is not None and connection.is_open:
                return connection
        raise ConnectionError("no broker can be reached")

    def _begin_to_connect(self, address: Address) -> "asyncio.Task[Connection | None]":
        task = self._connecting.get(address)
        if task is None:
            task = self._connecting[address] = self._loop.create_task(self._connect(address))
        return task

    async def _connect(self, address: Address) -> Connection | None:
        """Connect. Without success it ends after a while, so that the next attempt does not follow at once."""
        try:
            connection = await connect(self._brokers, self._client_id, *address, lambda lost: self._lost(address, lost))
        except OSError:
            await asyncio.sleep(next(self._reconnect.setdefault(address, delays_s(RECONNECT_MAX_S, RECONNECT_S))))
            return None
        finally:
            del self._connecting[address]
        self._reconnect.pop(address, None)
        self._connections[address] = connection
        self._on_change()
        return connection

    def _lost(self, address: Address, connection: Connection) -> None:
        if self._connections.get(address) is connection:
            del self._connections[address]
            if not self._connections and not self._closed:
                self.on_all_lost()

    def close(self) -> None:
        """End all connections, and what is under way."""
        self._closed = True
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
