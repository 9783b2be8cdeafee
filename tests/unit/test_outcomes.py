"""Waiting for an order: one query serves all waiting clients, none runs without them, and every wait ends in time."""

import asyncio
import json
from typing import Any

import msgspec
import pytest

from common.database import DatabaseUnavailable
from common.events import OrderId
from order.api.read import outcomes
from order.api.read.outcomes import WAIT_S_MAX, Outcomes, preferred_wait_s
from order.api.read.queries import Stored, Watched, as_accepted
from order.api.responses import Status, TimelineEntry
from tests.unit import virtual_time
from tests.unit.order_api import JSON, PLACE, Api, FakeQueries
from tests.unit.orders import order_id, placed

ORDER = b'{"customer_id":"cust-1","product_id":"apple","quantity":2}'


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "QUERY_EVERY_S", 0.001)


def stored(status: Status = "pending", *events: str, number: int = 1) -> Stored:
    """The order of this number after these events of its timeline."""
    accepted = as_accepted(placed(number), PLACE)
    entries = [TimelineEntry(event, accepted.view.placed_at, 0, 3, None) for event in ("order.placed", *events)]
    decided_at = None if status == "pending" else accepted.view.placed_at
    view = msgspec.structs.replace(accepted.view, status=status, decided_at=decided_at, timeline=entries)
    return msgspec.structs.replace(accepted, view=view)


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=5", 5),
        ("respond-async, wait=5", 5),
        ('Wait = "5"', 5),
        ("wait=5; foo=bar", 5),
        ("wait=5, wait=9", 5),
        ("wait=3600", WAIT_S_MAX),
        ("wait=0", 0),
        ("wait=-1", 0),
        ("wait=5s", 0),
        ("wait", 0),
        ("return=minimal", 0),
        ("wait=\N{ARABIC-INDIC DIGIT FIVE}", 0),
        ("", 0),
    ],
)
def test_the_preferred_wait(prefer: str, seconds: int) -> None:
    assert preferred_wait_s(prefer) == seconds


def test_a_decided_order_is_answered_whole() -> None:
    async def main() -> None:
        queries = FakeQueries([], [stored("confirmed")])
        view = await Outcomes(queries, lambda: False).decided(order_id(1), 5)
        assert view == stored("confirmed").view
        assert queries.watched == [[Watched(order_id(1), None)]] * 2

    virtual_time.run(main())


def test_one_query_serves_all_waiting_clients() -> None:
    async def main() -> None:
        queries = FakeQueries([stored("confirmed", number=n) for n in range(1, 51)])
        waiting = Outcomes(queries, lambda: False)
        views = await asyncio.gather(*(waiting.decided(order_id(n), 5) for n in range(1, 51)))
        assert [view and view.order_id for view in views] == [order_id(n) for n in range(1, 51)]
        assert len(queries.watched) == 1

    virtual_time.run(main())


def test_no_query_runs_when_no_client_waits() -> None:
    async def main() -> None:
        queries = FakeQueries([stored("confirmed")])
        await Outcomes(queries, lambda: False).decided(order_id(1), 5)
        await asyncio.sleep(0.02)
        assert len(queries.watched) == 1

    virtual_time.run(main())


def test_a_wait_ends_in_time_and_is_forgotten() -> None:
    async def main() -> None:
        waiting = Outcomes(FakeQueries(), lambda: False)
        assert await waiting.decided(order_id(1), 0.01) is None
        assert not waiting._waiting

    virtual_time.run(main())


def test_a_wait_for_newer_entries_does_not_return_the_ones_already_seen() -> None:
    async def main() -> None:
        queries = FakeQueries([stored()], [stored("pending", "payment.completed")])
        news = await Outcomes(queries, lambda: False).news(Watched(order_id(1), 1), 5)
        assert news is not None
        assert [entry.event for entry in news.view.timeline] == ["order.placed", "payment.completed"]

    virtual_time.run(main())


def test_a_database_that_is_away_for_a_while_ends_no_wait() -> None:
    async def main() -> None:
        queries = FakeQueries(DatabaseUnavailable("away"), [stored("rejected")])
        assert await Outcomes(queries, lambda: False).decided(order_id(1), 5) is not None

    virtual_time.run(main())


def test_draining_ends_every_wait() -> None:
    async def main() -> None:
        assert await asyncio.wait_for(Outcomes(FakeQueries(), lambda: True).decided(order_id(1), 30), 5) is None

    virtual_time.run(main())


def prefer(queries: FakeQueries, value: str = "wait=1", **options: Any) -> Any:
    return Api(queries=queries, **options).post(ORDER, headers={**JSON, "prefer": value})


class Decides(FakeQueries):
    """Confirms every order that a client waits for."""

    async def news(self, watched: Any) -> list[Stored]:
        confirmed = stored("confirmed")
        views = [msgspec.structs.replace(confirmed.view, order_id=OrderId(order.order_id)) for order in watched]
        return [msgspec.structs.replace(confirmed, view=view) for view in views]


def test_an_order_decided_in_time_is_answered_200_with_all_that_is_known() -> None:
    answer = prefer(Decides())
    assert (answer.status, answer.headers["preference-applied"]) == (200, "wait=1")
    assert answer.body["status"] == "confirmed"
    assert answer.headers["location"].endswith(answer.body["order_id"])


def test_an_order_not_decided_in_time_is_answered_202() -> None:
    answer = prefer(FakeQueries())
    assert (answer.status, answer.headers["preference-applied"]) == (202, "wait=1")
    assert set(answer.body) == {"order_id", "status", "amount", "currency"}


def test_an_unmet_preference_is_not_reported_as_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "preference-applied" not in prefer(Decides(), "return=minimal").headers
    monkeypatch.setattr(outcomes.Outcomes, "room", False)
    answer = prefer(Decides())
    assert answer.status == 202
    assert "preference-applied" not in answer.headers


def test_a_refusal_does_not_wait() -> None:
    answer = Api(queries=Decides()).post(b"{}", headers={**JSON, "prefer": "wait=1"})
    assert answer is not None
    assert answer.status == 422
    assert json.loads(answer.content)["errors"]
