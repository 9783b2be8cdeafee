"""How records linger in the api's publisher, and what becomes of one that a client does not take or only assumes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.config.kafka import Brokers
from common.errors import Transient
from common.events import Milliseconds, ProductData
from common.kafka import async_publisher
from common.kafka.async_publisher import Acknowledged, AsyncPublisher
from common.kafka.clients import Delivery, delivery_of
from common.kafka.publisher import Outgoing, Publisher
from inventory import relay
from inventory.relay_store import Change
from tests.unit import virtual_time

LINGER_S = 0.05
PLACE = Acknowledged(3, 7, Milliseconds(1_000))


class Delivered:
    """A message as the client reports it; without an offset if it only assumes that the log has it."""

    def __init__(self, *, assumed: bool = False) -> None:
        self._assumed = assumed

    def partition(self) -> int:
        return 3

    def offset(self) -> int | None:
        return None if self._assumed else 7

    def timestamp(self) -> tuple[int, int]:
        return 2, 1_000


class Client:
    """Stands for librdkafka: acknowledges what it takes when it is polled."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.sends: list[list[bytes]] = []
        self.refuses: dict[bytes, Exception] = {}
        self.assumes: set[bytes] = set()
        self._unreported: list[Any] = []

    def produce(self, _topic: str, value: bytes, _key: bytes, _partition: int, *, on_delivery: Any) -> None:
        if value in self.refuses:
            raise self.refuses[value]
        self.sends.append([value])
        self._unreported.append(partial(on_delivery, None, Delivered(assumed=value in self.assumes)))

    def poll(self, _: float) -> int:
        unreported, self._unreported = self._unreported, []
        for on_delivery in unreported:
            on_delivery()
        return len(unreported)

    def purge(self) -> None:
        """Nothing is queued here that could fail."""

    def __len__(self) -> int:
        return len(self._unreported)

    @property
    def taken(self) -> list[bytes]:
        return [value for values in self.sends for value in values]


def run(monkeypatch: pytest.MonkeyPatch, story: Callable[[AsyncPublisher, Client], Awaitable[None]]) -> None:
    """Run a story in an event loop; an error in a callback fails the test."""
    monkeypatch.setattr(async_publisher, "Producer", Client)
    failures: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        publisher = AsyncPublisher(Brokers("nowhere:1"), "test", linger_s=LINGER_S, deadline_s=5.0)
        client: Any = publisher._producer
        send = publisher._send_lingering

        def noted() -> None:
            before = len(client.sends)
            send()
            client.sends[before:] = [[value for values in client.sends[before:] for value in values]]

        publisher._send_lingering = noted  # type: ignore[method-assign]
        async with asyncio.timeout(4.0):
            await story(publisher, client)
            await publisher.close()
        assert publisher.in_flight == 0

    virtual_time.run(main())
    assert not failures


async def rounds_of_the_loop() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_lone_record_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        sent = publisher.send("t", b"k", b"1")
        await rounds_of_the_loop()
        assert client.taken == [b"1"]
        assert await sent == PLACE

    run(monkeypatch, story)


def test_records_that_linger_are_sent_together_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        first = [publisher.send("t", b"k", b"1"), publisher.send("t", b"k", b"2")]
        await rounds_of_the_loop()
        later = []
        for value in (b"3", b"4", b"5"):
            later.append(publisher.send("t", b"k", value))
            await rounds_of_the_loop()
        await asyncio.gather(*first, *later)
        assert client.sends == [[b"1", b"2"], [b"3", b"4", b"5"]]
        assert publisher.acknowledged == 5

    run(monkeypatch, story)


def test_a_changed_linger_counts_from_the_next_send_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        publisher.linger_s = 60.0
        first = publisher.send("t", b"k", b"1")
        await rounds_of_the_loop()
        publisher.linger_s = 0.0
        await asyncio.gather(first, publisher.send("t", b"k", b"2"))
        assert client.sends == [[b"1"], [b"2"]]

    run(monkeypatch, story)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BufferError("queue full"), KafkaError._QUEUE_FULL),
        (KafkaException(KafkaError(KafkaError._FATAL)), KafkaError._FATAL),
        (ValueError("of any kind"), KafkaError._FAIL),
    ],
    ids=["full", "broken", "unexpected"],
)
def test_a_record_that_the_client_does_not_take_fails_alone(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        reports: list[Acknowledged | None] = []
        client.refuses[b"2"] = error
        sent = [publisher.send("t", b"k", value, on_delivery=reports.append) for value in (b"1", b"2", b"3")]
        with pytest.raises(KafkaException) as raised:
            await sent[1]
        assert raised.value.args[0].code() == code
        assert await sent[0] == await sent[2] == PLACE
        assert reports.count(None) == 1
        replaced: Any = publisher._producer
        assert (replaced is not client) is (code == KafkaError._FATAL)  # only a fatal error replaces it
        assert await publisher.send("t", b"k", b"4")

    run(monkeypatch, story)


def test_what_the_client_only_assumes_is_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        client.assumes.add(b"1")
        first, second = (publisher.send("t", b"k", value) for value in (b"1", b"2"))
        with pytest.raises(KafkaException, match="a later record") as raised:
            await first
        assert delivery_of(raised.value.args[0]) is Delivery.UNKNOWN
        assert await second == PLACE
        assert publisher.acknowledged == 1

    run(monkeypatch, story)


@pytest.mark.parametrize("assumed", [False, True])
def test_a_batch_is_published_when_the_log_has_said_so_of_each_record(
    assumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Batches:
        def produce_batch(self, _: str, messages: list[Any], *, partition: int, on_delivery: Any) -> None:
            self.report = partial(on_delivery, None, Delivered(assumed=assumed))

        def flush(self, _: float) -> None:
            self.report()

    monkeypatch.setattr("common.kafka.publisher.Producer", lambda _: Batches())
    publisher = Publisher(Brokers("127.0.0.1:1"), "test")
    with pytest.raises(KafkaException, match="a later record") if assumed else nullcontext():
        publisher.publish([Outgoing("t", 0, b"k", b"1")])


@pytest.mark.parametrize("assumed", [False, True])
def test_the_catalogue_is_published_when_the_log_has_said_so_of_each_product(assumed: bool) -> None:
    class Transaction:
        def begin_transaction(self) -> None:
            """Nothing to begin."""

        def produce(self, _topic: str, _value: bytes, _key: bytes, *, on_delivery: Any) -> None:
            self.report = partial(on_delivery, None, Delivered(assumed=assumed))

        def commit_transaction(self, _: float) -> None:
            self.report()

    client: Any = Transaction()
    product = ProductData(product_id="p", name="Cup", unit_price=1999, currency="EUR", active=True, version=1)
    with pytest.raises(Transient, match=r"1 products .* a later record") if assumed else nullcontext():
        relay.publish(client, [Change(product, Milliseconds(1))])


def test_lingering_records_are_sent_before_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        publisher.send("t", b"k", b"1")
        await rounds_of_the_loop()
        publisher.send("t", b"k", b"2")
        await publisher.close()
        assert client.taken == [b"1", b"2"]

    run(monkeypatch, story)
