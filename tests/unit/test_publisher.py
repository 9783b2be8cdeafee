"""How records linger in the api's publisher, and how the relay knows that the log has a product."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.config.kafka import Brokers
from common.errors import Transient
from common.events import Milliseconds, ProductData
from common.kafka import async_publisher
from common.kafka.async_publisher import GRACE_S, AsyncPublisher
from common.kafka.produce.batch import Acknowledged, Outgoing
from inventory import relay
from inventory.relay_store import Change
from tests.unit import virtual_time

LINGER_S = 0.05
DEADLINE_S = 5.0
PLACE = Acknowledged(3, 7, Milliseconds(1_000))


class Taken:
    """Stands for the producer: tells the fate of what it takes in the next round of the loop, or never."""

    def __init__(self, _: Brokers, __: str) -> None:
        self.sends: list[list[bytes]] = []
        self.refuses: dict[bytes, KafkaError] = {}
        self.forgets: set[bytes] = set()
        self.forgotten: list[Outgoing] = []
        self.cluster = SimpleNamespace(on_all_lost=None)
        self.closed = False

    def produce(self, records: Iterable[Outgoing]) -> None:
        records = list(records)
        self.sends.append([record.value for record in records])
        for record in records:
            if record.value in self.forgets:
                self.forgotten.append(record)
            else:
                error = self.refuses.get(record.value)
                asyncio.get_running_loop().call_soon(record.delivered, record, None if error else PLACE, error)

    def close(self) -> None:
        self.closed = True


def run(monkeypatch: pytest.MonkeyPatch, story: Callable[[AsyncPublisher, Taken], Awaitable[None]]) -> None:
    """Run a story in an event loop; an error in a callback fails the test."""
    monkeypatch.setattr(async_publisher, "Producer", Taken)
    failures: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        publisher = AsyncPublisher(Brokers("nowhere:1"), "test", linger_s=LINGER_S, deadline_s=DEADLINE_S)
        taken: Any = publisher._producer
        async with asyncio.timeout(60.0):
            await story(publisher, taken)
            await publisher.close()
        assert taken.closed
        assert publisher.in_flight == 0

    virtual_time.run(main())
    assert not failures


async def rounds_of_the_loop() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_a_lone_record_is_sent_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        sent = publisher.send("t", b"k", b"1")
        await rounds_of_the_loop()
        assert taken.sends == [[b"1"]]
        assert await sent == PLACE

    run(monkeypatch, story)


def test_records_that_linger_are_sent_together_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        first = [publisher.send("t", b"k", b"1"), publisher.send("t", b"k", b"2")]
        await rounds_of_the_loop()
        later = []
        for value in (b"3", b"4", b"5"):
            later.append(publisher.send("t", b"k", value))
            await rounds_of_the_loop()
        await asyncio.gather(*first, *later)
        assert taken.sends == [[b"1", b"2"], [b"3", b"4", b"5"]]
        assert publisher.acknowledged == 5

    run(monkeypatch, story)


def test_what_lingers_goes_with_the_first_record_that_need_not_or_soon_after(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        await publisher.send("t", b"k", b"1")
        publisher.send("t", b"k", b"2")
        await asyncio.sleep(LINGER_S + GRACE_S / 2)
        assert taken.sends == [[b"1"]]
        await asyncio.gather(publisher.send("t", b"k", b"3"), publisher.send("t", b"k", b"4"))
        assert taken.sends == [[b"1"], [b"2", b"3", b"4"]]
        publisher.send("t", b"k", b"5")
        await asyncio.sleep(LINGER_S + GRACE_S)
        assert taken.sends == [[b"1"], [b"2", b"3", b"4"], [b"5"]]

    run(monkeypatch, story)


def test_a_changed_linger_counts_from_the_next_send_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        publisher.linger_s = 60.0
        first = publisher.send("t", b"k", b"1")
        await rounds_of_the_loop()
        publisher.linger_s = 0.0
        await asyncio.gather(first, publisher.send("t", b"k", b"2"))
        assert taken.sends == [[b"1"], [b"2"]]

    run(monkeypatch, story)


def test_a_record_that_the_log_does_not_take_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        reports: list[Acknowledged | None] = []
        taken.refuses[b"2"] = KafkaError(KafkaError.POLICY_VIOLATION)
        sent = [publisher.send("t", b"k", value, on_delivery=reports.append) for value in (b"1", b"2", b"3")]
        with pytest.raises(KafkaException) as raised:
            await sent[1]
        assert raised.value.args[0].code() == KafkaError.POLICY_VIOLATION
        assert await sent[0] == await sent[2] == PLACE
        assert reports == [PLACE, None, PLACE]
        assert publisher.acknowledged == 2

    run(monkeypatch, story)


def test_who_waits_for_too_long_is_told_and_the_fate_is_still_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        reports: list[Acknowledged | None] = []
        taken.forgets.add(b"1")
        began_s = asyncio.get_running_loop().time()
        forgotten = publisher.send("t", b"k", b"1", on_delivery=reports.append)
        assert await publisher.send("t", b"k", b"2") == PLACE
        await asyncio.sleep(DEADLINE_S - 1)
        late = publisher.send("t", b"k", b"1")
        with pytest.raises(TimeoutError):
            await forgotten
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(DEADLINE_S, abs=0.1)
        assert not late.done()
        with pytest.raises(TimeoutError):
            await late
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(2 * DEADLINE_S - 1, abs=0.2)
        assert publisher.in_flight == 2
        for record in taken.forgotten:
            record.delivered(record, PLACE, None)
        assert reports == [PLACE]

    run(monkeypatch, story)


def test_lingering_records_are_sent_before_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(publisher: AsyncPublisher, taken: Taken) -> None:
        publisher.send("t", b"k", b"1")
        await rounds_of_the_loop()
        publisher.send("t", b"k", b"2")
        await publisher.close()
        assert taken.sends == [[b"1"], [b"2"]]

    run(monkeypatch, story)


class Delivered:
    """A message as librdkafka reports it; without an offset if it only assumes that the log has it."""

    def __init__(self, *, assumed: bool = False) -> None:
        self._assumed = assumed

    def partition(self) -> int:
        return 3

    def offset(self) -> int | None:
        return None if self._assumed else 7


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
