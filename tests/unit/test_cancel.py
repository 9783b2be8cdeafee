"""Requests to cancel an order: a repeat under a key gets the first answer, whatever has become of the order since."""

import asyncio

import pytest

from common.events import OrderCancelRequested
from common.http import problem
from common.http.problem import ProblemError
from common.kafka.produce.batch import Acknowledged
from order.api.place.cancel import CancelOrder
from order.api.responses import Status
from tests.unit.order_api import PLACE, Answer, FakeLog, FakeRequests, call
from tests.unit.orders import order_id
from tests.unit.test_outcomes import stored
from tests.unit.test_stream import FakeLookup


class CancelLog(FakeLog):
    """Keeps the requests that it takes, unless it is away."""

    def __init__(self) -> None:
        super().__init__()
        self.requested: list[OrderCancelRequested] = []
        self.away = False

    async def request_cancel(self, event: OrderCancelRequested, partition: int) -> Acknowledged:
        if self.away:
            raise ProblemError(problem.unavailable("Kafka cannot be reached"))
        self.requested.append(event)
        return PLACE


class Desk:
    def __init__(self) -> None:
        self.log, self.requests = CancelLog(), FakeRequests()

    def cancel(self, status: Status, *keys: str) -> Answer:
        """Ask for an order in this status to be cancelled."""
        endpoint = CancelOrder(FakeLookup(stored(status)), self.requests, self.log)
        answer = asyncio.run(call(endpoint, [], [("idempotency-key", key) for key in keys], order_id=order_id(1)))
        assert answer is not None
        return answer


@pytest.mark.parametrize("later", ["pending", "confirmed", "rejected", "cancelled"])
def test_a_repeat_gets_the_first_answer_byte_for_byte(later: Status) -> None:
    desk = Desk()
    first, again = desk.cancel("pending", "k"), desk.cancel(later, "k")
    assert (first.status, again.status) == (202, 202)
    assert first.content == again.content
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


def test_without_a_key_a_final_order_cannot_be_cancelled() -> None:
    desk = Desk()
    desk.cancel("pending")
    for keys in ((), ("another",)):
        with pytest.raises(ProblemError) as caught:
            desk.cancel("cancelled", *keys)
        assert caught.value.problem.status == 409


def test_a_request_whose_answer_was_stored_and_that_never_reached_the_log_is_published_by_its_repeat() -> None:
    desk = Desk()
    desk.log.away = True
    with pytest.raises(ProblemError):
        desk.cancel("pending", "k")
    desk.log.away = False
    assert desk.cancel("confirmed", "k").status == 202
    assert len(desk.log.requested) == 1


def test_two_keys_are_refused() -> None:
    with pytest.raises(ProblemError) as caught:
        Desk().cancel("pending", "a", "b")
    assert (caught.value.problem.status, caught.value.problem.code) == (400, "idempotency-key")
