"""How the api's publisher gathers, and what becomes of a record that the client does not take."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from common import kafka
from common.kafka import Acknowledged, AsyncPublisher

SPACING_S = 0.05


class Client:
    """Stands for librdkafka: takes what it is given, and reports nothing unless told to."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.taken: list[bytes] = []
        self.refuses: Exception | None = None

    def produce(self, _topic: str, value: bytes, _key: bytes, _partition: int, *, on_delivery: Any) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.taken.append(value)

    def poll(self, _: float) -> int:
        return 0


def run(monkeypatch: pytest.MonkeyPatch, story: Callable[[AsyncPublisher, Client], Awaitable[None]]) -> None:
    monkeypatch.setattr(kafka, "Producer", Client)

    async def main() -> None:
        publisher = AsyncPublisher("nowhere:1", "test", spacing_s=SPACING_S, deadline_s=5.0)
        client: Any = publisher._producer
        await story(publisher, client)

    asyncio.run(main())


async def rounds_of_the_loop() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_who_is_alone_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        publisher.publish("t", b"k", b"1")
        await rounds_of_the_loop()
        assert client.taken == [b"1"]

    run(monkeypatch, story)


def test_what_comes_soon_after_is_handed_over_together_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        publisher.publish("t", b"k", b"1")
        publisher.publish("t", b"k", b"2")
        await rounds_of_the_loop()
        assert client.taken == [b"1", b"2"]
        began = publisher._loop.time()
        for value in (b"3", b"4", b"5"):
            publisher.publish("t", b"k", value)
            await rounds_of_the_loop()
        assert client.taken == [b"1", b"2"] or publisher._loop.time() - began >= SPACING_S
        assert publisher.in_flight == 5
        while len(client.taken) < 5:
            await rounds_of_the_loop()
        assert client.taken == [b"1", b"2", b"3", b"4", b"5"]

    run(monkeypatch, story)


@pytest.mark.parametrize(
    "error", [BufferError("queue full"), KafkaException(KafkaError(KafkaError._FATAL))], ids=["full", "broken"]
)
def test_a_record_that_the_client_does_not_take_fails_alone(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, client: Client) -> None:
        told: list[Acknowledged | None] = []
        client.refuses = error
        sent = publisher.publish("t", b"k", b"1", reported=told.append)
        with pytest.raises(KafkaException):
            await sent
        assert (told, publisher.in_flight) == ([None], 0)
        client.refuses = None
        publisher.publish("t", b"k", b"2")
        while publisher._gathered:
            await rounds_of_the_loop()
        assert publisher.in_flight == 1

    run(monkeypatch, story)
