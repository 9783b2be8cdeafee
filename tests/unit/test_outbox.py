"""Deposits and restocks on their way into the log: what a request is told, and what becomes of those left behind."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.config.env import Env
from common.config.process import process_settings
from common.consume.published import EnteredRows, behind, lacking
from common.events import (
    DEPOSITS,
    PAYMENT_EVENTS,
    DepositData,
    Milliseconds,
    PaymentCompleted,
    PaymentData,
    PaymentRefunded,
    account_deposited,
    make,
)
from common.http.problem import ProblemError
from common.kafka.outbox import Outbox, Stored, add, stored
from ops.replay.entered import missing

PROCESS = process_settings(
    Env("test", {"DATABASE_URL": "postgresql://h", "AUTH": "off"}), database="DATABASE_URL", port=1
)
RANKS: dict[str, int] = {state: kind.rank for state, kind in PAYMENT_EVENTS.items()}


def deposited(key: str, amount: int = 5) -> Any:
    data = DepositData(customer_id="c", amount=amount, currency="EUR", key=key, by="shop", known_by="key")
    return account_deposited(data, at=Milliseconds(0))


class FakeDatabase:
    """A table of rows by event id, as statements of the outbox leave it."""

    def __init__(self) -> None:
        self.rows: dict[str, Stored] = {}
        self.reads = self.writes = self

    async def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        return await work(self)

    read = run

    async def execute(self, query: str | bytes, parameters: Any) -> Any:
        text = query if isinstance(query, str) else query.decode()
        if "INSERT" in text:
            self.rows.setdefault(parameters[0], Stored(*parameters))
        elif "DELETE" in text:
            for event_id in parameters[0]:
                self.rows.pop(event_id, None)
        rows = list(self.rows.values())

        async def fetchall() -> list[Stored]:
            return rows

        return SimpleNamespace(fetchall=fetchall)


class FakePublisher:
    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.error: Exception | None = None
        self.away = ""

    def send(self, topic: str, key: bytes, value: bytes, partition: int) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.error is not None:
            future.set_exception(self.error)
        else:
            self.taken.append(value)
            future.set_result(None)
        return future

    def unreachable(self, _topic: str, _timeout_s: float) -> str:
        return self.away


def outbox() -> tuple[Outbox, FakeDatabase, FakePublisher]:
    database, publisher = FakeDatabase(), FakePublisher()
    made = Outbox(PROCESS, database, DEPOSITS)  # type: ignore[arg-type]
    made._publisher = publisher  # type: ignore[assignment]
    return made, database, publisher


def test_a_row_stays_until_the_log_has_its_event_and_then_goes() -> None:
    async def main() -> None:
        box, database, publisher = outbox()
        row = stored(deposited("a"))
        await add(database, row)  # type: ignore[arg-type]
        await box.publish([row])
        assert publisher.taken == [row.value]
        assert database.rows, "it is deleted later, many together"
        await box.sweep()
        assert not database.rows
        assert publisher.taken == [row.value], "and not published again"

    asyncio.run(main())


@pytest.mark.parametrize("error", [TimeoutError(), KafkaException(KafkaError(KafkaError._MSG_TIMED_OUT))])
def test_without_the_log_it_is_said_that_it_is_entered_and_then_nothing_is(error: Exception) -> None:
    async def main() -> None:
        box, database, publisher = outbox()
        row = stored(deposited("a"))
        await add(database, row)  # type: ignore[arg-type]
        publisher.error, publisher.away = error, "Kafka cannot be reached"
        with pytest.raises(ProblemError) as entered:
            await box.publish([row])
        assert "this is entered, and the log does not have it yet" in entered.value.problem.detail
        with pytest.raises(ProblemError) as refused:
            box.check_open()
        assert "nothing was changed by this request" in refused.value.problem.detail
        await box.sweep()
        assert not publisher.taken
        publisher.error, publisher.away = None, ""
        await box.sweep()
        box.check_open()
        assert publisher.taken == [row.value], "what was left behind gets there by itself"

    asyncio.run(main())


def test_a_repeat_is_answered_when_the_log_has_what_the_first_request_entered() -> None:
    async def main() -> None:
        box, database, publisher = outbox()
        row = stored(deposited("a"))
        await add(database, row)  # type: ignore[arg-type]
        await box.publish_of("c")
        assert publisher.taken == [row.value]

    asyncio.run(main())


def test_an_entry_has_one_id_however_often_it_is_published_and_however_long_its_key() -> None:
    one, again = deposited("k" * 255), deposited("k" * 255)
    assert one.id == again.id
    assert len(one.id) <= 256
    assert one.id != deposited("k" * 254).id


def test_what_a_replay_enters_is_what_the_database_lacks_once_by_its_key() -> None:
    entered = [deposited("known"), deposited("lost"), deposited("lost", 6), deposited("other")]
    lost = missing(cast(Any, "no database"), entered, lambda _, keys: {("c", "known")} & {*keys})
    assert [(event.data.key, event.data.amount) for event in lost] == [("lost", 5), ("other", 5)]


def test_a_published_decision_that_goes_further_than_the_stored_one_shows_a_loss() -> None:
    def paid(kind: Any, order_id: str) -> Any:
        data = PaymentData(order_id=order_id, customer_id="c", amount=1, currency="EUR")
        return make(kind, data, at=Milliseconds(0), traceparent="")

    completed, refunded = paid(PaymentCompleted, "1"), paid(PaymentRefunded, "1")
    assert behind([completed], {"1": "completed"}, RANKS) == []
    assert behind([completed], {"1": "refunded"}, RANKS) == [], "an earlier one"
    assert behind([completed, refunded], {"1": "completed"}, RANKS) == [refunded]
    assert behind([completed], {}, RANKS) == [completed]

    def execute(_: bytes, keys: list[list[str]]) -> Any:
        return SimpleNamespace(fetchall=lambda: [row for row in zip(*keys, strict=True) if row == ("c", "kept")])

    def states(_: Any, orders: Any) -> dict[str, str]:
        return dict.fromkeys(orders, "completed")

    database = cast(Any, SimpleNamespace(execute=execute))
    published = [deposited("kept"), completed, deposited("lost"), refunded]
    lost = lacking(database, published, states, RANKS, EnteredRows("ledger", "customer_id"))
    assert lost == [refunded, published[2]]
