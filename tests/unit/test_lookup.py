"""The rule of `GET /orders/{id}`: an accepted order is never "not found", and neither is one that may be in the log."""

import asyncio
from typing import Any, Final

import pytest

from common.codec import encode
from common.database import DatabaseUnavailable
from common.errors import Fatal, Transient
from common.events import CustomerId, Item, Milliseconds, OrderId, OrderPlaced, PlacedData, make
from common.http.problem import Problem, ProblemError
from common.kafka.produce.batch import Acknowledged
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import Recent, RecentOrders
from order.api.read import lookup
from order.api.read.lookup import Lookup
from order.api.read.queries import OrderQueries, Stored, as_accepted

ORDER_ID = OrderId("01997c00-0000-7000-8000-000000000001")
AT = Milliseconds(1_795_403_860_266)
PLACE = Acknowledged(3, 17, AT)


def recent() -> Recent:
    data = PlacedData(
        order_id=ORDER_ID, customer_id=CustomerId("cust-1"), items=(Item("apple", 2, 150),), amount=300, currency="EUR"
    )
    return Recent(encode(make(OrderPlaced, data, at=Milliseconds(AT - 5), traceparent="00-trace")), PLACE)


TOPIC_ID = "the topic that the saga reads"
STORED = as_accepted(recent().placed, PLACE)


class FakeQueries(OrderQueries):
    """The order database. The saga stores the order, if ever, after so many queries for its positions."""

    def __init__(
        self, *, away: bool = False, stored_after: int | None = None, behind: bool = False, parked: bool = False
    ) -> None:
        self.is_reachable = not away
        self.is_parked = parked
        self.queried = 0
        self._stored_after = stored_after
        self._behind = behind

    async def by_id(self, order_id: OrderId) -> Stored | None:
        if not self.is_reachable:
            raise DatabaseUnavailable("away")
        return STORED if self._stored_after is not None and self.queried >= self._stored_after else None

    async def parked(self, order_id: OrderId) -> Stored | None:
        return STORED if self.is_parked else None

    async def positions(self) -> dict[tuple[str, int], int]:
        if not self.is_reachable:
            raise DatabaseUnavailable("away")
        self.queried += 1
        unread = self._behind or (self._stored_after is not None and self.queried < self._stored_after)
        return {(TOPIC_ID, 0): 0, (TOPIC_ID, 3): 17 if unread else 18}


class FakeLog(OrdersLog):
    def __init__(
        self,
        *,
        away: bool = False,
        refused: bool = False,
        undecided: bool = False,
        topic_id: str = TOPIC_ID,
    ) -> None:
        self._topic_id = topic_id
        self._broker_away = away
        self._is_refused = refused
        self._undecided = {ORDER_ID: ("cust-1", 1)} if undecided else {}

    async def ends(self) -> dict[tuple[str, int], int]:
        if self._broker_away:
            raise Transient("Kafka is away")
        if self._is_refused:
            raise Fatal("Topic authorization failed")
        return {(self._topic_id, 0): 0, (self._topic_id, 3): 18}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "SAGA_WAIT_S", 0.05)
    monkeypatch.setattr(lookup, "SAGA_CHECK_EVERY_S", 0.001)


def find(
    queries: FakeQueries,
    log: FakeLog | None = None,
    *,
    accepted_here: bool = False,
    order_id: str = ORDER_ID,
    customer: str | None = None,
) -> Stored:
    async def main() -> Stored:
        orders = RecentOrders()
        if accepted_here:
            orders.remember(ORDER_ID, *recent())
        return await Lookup(queries, orders, log or FakeLog()).find(order_id, customer)

    return asyncio.run(main())


def refusal(
    queries: FakeQueries, log: FakeLog | None = None, *, order_id: str = ORDER_ID, customer: str | None = None
) -> Problem:
    with pytest.raises(ProblemError) as caught:
        find(queries, log, order_id=order_id, customer=customer)
    return caught.value.problem


def test_a_stored_order_is_found() -> None:
    assert find(FakeQueries(stored_after=0)) is STORED


def test_an_order_just_accepted_here_is_pending_with_its_partition_and_offset() -> None:
    view = find(FakeQueries(), accepted_here=True).view
    assert (view.status, view.payment, view.inventory, view.settled) == ("pending", "pending", "pending", False)
    [entry] = view.timeline
    assert (entry.event, entry.partition, entry.offset, entry.at) == ("order.placed", 3, 17, view.placed_at)


def test_a_stored_order_counts_more_than_its_acceptance() -> None:
    assert find(FakeQueries(stored_after=0), accepted_here=True) is STORED


def test_an_order_just_accepted_here_needs_no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "now", lambda: Milliseconds(AT + lookup.JUST_ACCEPTED_MS))
    assert find(FakeQueries(away=True), accepted_here=True).view.order_id == ORDER_ID


def test_an_older_order_is_not_called_pending_while_the_database_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been settled since."""
    monkeypatch.setattr(lookup, "now", lambda: Milliseconds(AT + lookup.JUST_ACCEPTED_MS + 1))
    with pytest.raises(ProblemError) as caught:
        find(FakeQueries(away=True), accepted_here=True)
    assert caught.value.problem.status == 503


def test_an_order_accepted_elsewhere_is_found_once_the_saga_has_read_so_far() -> None:
    queries = FakeQueries(stored_after=3)
    assert find(queries) is STORED
    assert queries.queried == 3


def test_there_is_no_order_when_the_saga_has_read_to_the_end() -> None:
    assert refusal(FakeQueries()).status == 404


def test_an_order_that_the_saga_has_parked_is_found() -> None:
    assert find(FakeQueries(parked=True)) is STORED


def test_an_order_that_comes_out_of_parking_at_this_moment_is_found() -> None:
    class Redriven(FakeQueries):
        async def parked(self, order_id: OrderId) -> Stored | None:
            self._stored_after = 0
            return None

    assert find(Redriven()) is STORED


def test_while_the_saga_is_behind_the_answer_is_503() -> None:
    problem = refusal(FakeQueries(behind=True))
    assert (problem.status, problem.retry_after_s) == (503, 1)
    assert "behind" in problem.detail


def test_a_topic_that_the_saga_has_not_read_says_nothing_about_an_order() -> None:
    """It was created anew under the old name: the saga's positions are of the old one."""
    found = refusal(FakeQueries(), FakeLog(topic_id="another"))
    assert found.status == 503


def test_with_the_database_away_the_answer_is_503() -> None:
    assert refusal(FakeQueries(away=True)).status == 503


def test_with_kafka_away_the_answer_is_503() -> None:
    assert refusal(FakeQueries(), FakeLog(away=True)).status == 503
    assert refusal(FakeQueries(), FakeLog(refused=True)).status == 503


def test_an_order_the_log_may_still_take_is_not_denied() -> None:
    assert refusal(FakeQueries(), FakeLog(undecided=True)).status == 503
    assert refusal(FakeQueries(), FakeLog(undecided=True), customer="cust-1").status == 503


def test_an_order_of_another_customer_the_log_may_still_take_is_not_there() -> None:
    taken = refusal(FakeQueries(), FakeLog(undecided=True), customer="cust-2")
    assert taken == refusal(FakeQueries(), FakeLog(), customer="cust-2")
    assert taken.status == 404


@pytest.mark.parametrize("order_id", ["x", ORDER_ID.upper() + "X", "a" * 5_000])
def test_an_invalid_id_is_not_looked_up(order_id: str) -> None:
    problem = refusal(FakeQueries(away=True), order_id=order_id)
    assert problem.status == 404
    assert len(problem.detail) < 100


def test_a_parked_record_that_is_nested_too_deeply_is_no_order() -> None:
    class Rows(OrderQueries):
        def __init__(self) -> None: ...

        async def _rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
            return [(3, 17, AT, b'{"type":"order.placed","x":' + b"[" * 100_000), (3, 18, AT, recent().value)]

    parked = asyncio.run(Rows().parked(ORDER_ID))
    assert parked is not None
    assert parked.view.order_id == ORDER_ID


OTHERS: Final = "cust-2"


@pytest.mark.parametrize("accepted_here", [True, False])
@pytest.mark.parametrize("queries", [{"stored_after": 0}, {"parked": True}, {"stored_after": 1}], ids=str)
def test_another_customers_order_is_not_there(queries: dict[str, Any], accepted_here: bool) -> None:
    assert find(FakeQueries(**queries), accepted_here=accepted_here, customer="cust-1").view.order_id == ORDER_ID
    other, nobodys = FakeQueries(**queries), FakeQueries()
    answers = []
    for asked, here in ((other, accepted_here), (nobodys, False)):
        with pytest.raises(ProblemError) as caught:
            find(asked, accepted_here=here, customer=OTHERS)
        answers.append(caught.value.problem)
    assert answers[0] == answers[1]
    assert answers[0].status == 404
    assert other.queried == nobodys.queried == 1  # the same way, and so the same time


def test_while_nothing_can_be_ruled_out_another_customers_order_is_503_as_nobodys_is() -> None:
    for queries in ({"behind": True}, {"away": True}):
        answers = []
        for accepted_here in (True, False):
            with pytest.raises(ProblemError) as caught:
                find(FakeQueries(**queries), accepted_here=accepted_here, customer=OTHERS)
            answers.append(caught.value.problem)
        assert answers[0] == answers[1]
        assert answers[0].status == 503
