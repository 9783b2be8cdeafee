"""Server-sent events of an order: every entry once, even over reconnections, until the order is settled."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import pytest
from loguru import logger

from common.auth.authenticator import OPEN, Open
from common.auth.principal import ANYONE, Principal, Unauthenticated
from common.http import problem
from common.http.limits.places import Full
from common.http.problem import ProblemError
from common.http.repeats import REPORT_EVERY_S
from order.api.read import outcomes, stream
from order.api.read.lookup import Lookup
from order.api.read.outcomes import Outcomes
from order.api.read.queries import Stored
from order.api.read.stream import OrderEvents
from tests.routes import state_of
from tests.unit.order_api import FakeQueries
from tests.unit.orders import order_id
from tests.unit.test_outcomes import stored


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "QUERY_EVERY_S", 0.001)


def settled(*events: str) -> Stored:
    unsettled = stored("confirmed", *events)
    return msgspec.structs.replace(unsettled, view=msgspec.structs.replace(unsettled.view, settled=True))


class FakeLookup(Lookup):
    """Finds this order, or nothing."""

    def __init__(self, order: Stored | None) -> None:
        self._order = order

    async def find(self, named: str, customer: str | None) -> Stored:
        if self._order is None:
            raise ProblemError(problem.not_found("order", named))
        return self._order


class Client:
    """Reads a stream until it ends, or until it has received the text that it waits for."""

    def __init__(self, *, leaves_after: bytes | None = None) -> None:
        self.start: dict[str, Any] = {}
        self.content = b""
        self._leaves_after = leaves_after
        self._left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        self.content += message.get("body", b"")
        if self._leaves_after is not None and self._leaves_after in self.content:
            self._left.set()

    @property
    def events(self) -> list[tuple[str, str, dict[str, Any]]]:
        """Id, name and data of each."""
        blocks = [block.split("\n") for block in self.content.decode().split("\n\n") if block.startswith("id: ")]
        return [
            (number.removeprefix("id: "), name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
            for number, name, data in blocks
        ]

    async def read(
        self, endpoint: OrderEvents, last: str | None = None, method: str = "GET", authorization: bytes = b""
    ) -> "Client":
        headers = [] if last is None else [(b"last-event-id", last.encode())]
        headers += [(b"authorization", authorization)] if authorization else []
        scope = {"type": "http", "method": method, "headers": headers, "path_params": {"order_id": order_id(1)}}
        scope["state"] = state_of()
        async with asyncio.timeout(10):
            await endpoint(scope, self.receive, self.send)
        return self


def read(
    order: Stored | None,
    *answers: Iterable[Stored],
    last: str | None = None,
    stopping: bool = False,
    leaves_after: bytes | None = None,
) -> Client:
    async def main() -> Client:
        endpoint = OrderEvents(FakeLookup(order), Outcomes(FakeQueries(*answers), lambda: stopping), OPEN)
        client = await Client(leaves_after=leaves_after).read(endpoint, last)
        assert endpoint._open.taken == 0
        return client

    return asyncio.run(main())


def names(client: Client) -> list[tuple[str, str]]:
    return [(number, name) for number, name, _ in client.events]


def test_every_entry_is_sent_once_and_then_the_end() -> None:
    end = settled("payment.completed", "inventory.reserved", "order.confirmed")
    client = read(stored(), [stored()], [stored("pending", "payment.completed")], [end])
    assert client.start["status"] == 200
    assert (b"content-type", b"text/event-stream") in client.start["headers"]
    assert client.content.startswith(b"retry: 1000\n\n")
    assert names(client) == [
        ("1", "order.placed"),
        ("2", "payment.completed"),
        ("3", "inventory.reserved"),
        ("4", "order.confirmed"),
        ("4-settled", "settled"),
    ]
    assert client.events[-1][2]["settled"] is True


def test_the_entries_of_a_settled_order_are_sent_at_once() -> None:
    assert names(read(settled())) == [("1", "order.placed"), ("1-settled", "settled")]


@pytest.mark.parametrize(
    ("last", "missed"),
    [
        ("1", ["2", "3", "3-settled"]),
        ("3", ["3-settled"]),
        ("1-settled", ["2", "3", "3-settled"]),  # it has been cancelled since
        ("99", ["3-settled"]),
        ("nonsense", ["1", "2", "3", "3-settled"]),
        ("", ["1", "2", "3", "3-settled"]),
    ],
)
def test_a_client_that_reconnects_gets_the_entries_it_missed(last: str, missed: list[str]) -> None:
    end = settled("payment.completed", "order.confirmed")
    assert [number for number, _ in names(read(end, last=last))] == missed


@pytest.mark.parametrize("last", ["2", "99", "99-settled"])
def test_an_id_past_the_end_of_an_open_order_waits_for_no_entry_that_never_comes(last: str) -> None:
    now = stored("pending", "payment.completed")
    end = settled("payment.completed", "order.confirmed")
    assert [number for number, _ in names(read(now, [now], [end], last=last))] == ["3", "3-settled"]


def test_an_order_that_settles_while_its_client_is_away_is_told_to_be_settled() -> None:
    """All entries had come, and only the end had not."""
    end = settled("payment.completed", "order.confirmed")
    assert [number for number, _ in names(read(stored("pending", "payment.completed"), [end], last="3"))] == [
        "3-settled"
    ]


def test_a_client_that_has_every_entry_is_told_to_stop() -> None:
    client = read(settled("payment.completed"), last="2-settled")
    assert (client.start["status"], client.content) == (204, b"")


def test_an_assumed_entry_is_not_sent() -> None:
    """A result can overtake its order: the saga's timeline begins with what it read first."""
    overtaken = settled("x")
    entries = list(reversed(overtaken.view.timeline))
    view = msgspec.structs.replace(overtaken.view, timeline=entries)
    client = read(stored(), [msgspec.structs.replace(overtaken, view=view)])
    assert [name for _, name in names(client)] == ["x", "order.placed", "settled"]


def test_a_quiet_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_S", 0.005)
    client = read(stored(), leaves_after=b": nothing new\n\n")
    assert client.events == []


def test_a_stream_ends_when_the_process_drains() -> None:
    assert read(stored(), stopping=True).start["status"] == 200


def test_a_stream_ends_when_the_credentials_of_its_client_are_no_longer_good() -> None:
    class Revoking(Open):
        """Takes the credentials twice."""

        taken = 0

        async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
            assert authorizations == [b"Bearer mine"]
            self.taken += 1
            if self.taken > 2:
                raise Unauthenticated("the API key was revoked")
            return ANYONE

    async def main() -> Client:
        queries = FakeQueries(
            [stored("pending", "payment.completed")], [settled("payment.completed", "order.confirmed")]
        )
        endpoint = OrderEvents(FakeLookup(stored()), Outcomes(queries, lambda: False), Revoking())
        return await Client().read(endpoint, authorization=b"Bearer mine")

    assert names(asyncio.run(main())) == [("1", "order.placed"), ("2", "payment.completed")]


def test_an_unknown_order_has_no_events() -> None:
    with pytest.raises(ProblemError) as caught:
        read(None)
    assert caught.value.problem.status == 404


def test_the_number_of_open_streams_is_limited_and_a_leaving_client_makes_room() -> None:
    async def main() -> None:
        endpoint = OrderEvents(FakeLookup(stored()), Outcomes(FakeQueries(), lambda: False), OPEN, streams_max=2)
        clients = [Client(), Client()]
        reading = [asyncio.ensure_future(client.read(endpoint)) for client in clients]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as caught:
            await Client().read(endpoint)
        assert "2 streams in all are open" in caught.value.problem.detail
        clients[0]._left.set()
        await reading[0]
        third = Client(leaves_after=b"retry")
        await third.read(endpoint)
        clients[1]._left.set()
        await reading[1]
        assert endpoint._open.taken == 0

    asyncio.run(main())


def test_a_head_request_is_answered_without_waiting() -> None:
    async def main() -> None:
        client = await Client().read(
            OrderEvents(FakeLookup(stored()), Outcomes(FakeQueries(), lambda: False), OPEN), method="HEAD"
        )
        assert (client.start["status"], client.content) == (200, b"")

    asyncio.run(main())


def test_refused_streams_are_logged_now_and_then_with_their_number() -> None:
    lines: list[str] = []
    sink = logger.add(lambda message: lines.append(message.record["message"]), level="WARNING")
    try:
        endpoint = OrderEvents(FakeLookup(None), Outcomes(FakeQueries(), lambda: False), OPEN, streams_max=0)
        for now in (1.0, 2.0, 3.0, 1.0 + REPORT_EVERY_S):
            assert endpoint._no_room(Full(0, "in all"), "192.0.2.1", now).status == 503
    finally:
        logger.remove(sink)
    assert lines == ["too many event streams: 1 refused", "too many event streams: 3 refused"]
