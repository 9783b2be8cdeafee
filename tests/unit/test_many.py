"""Many orders in one request: each line is accepted or refused by itself, and single orders find room beside them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from common.auth.principal import Principal
from common.config.env import Env
from common.database import DatabaseUnavailable
from common.events import OrderId
from common.http import problem
from common.http.limits.buckets import Rate
from common.http.limits.places import Full
from common.http.limits.settings import RequestLimits
from common.http.problem import Problem, ProblemError
from common.http.requests import BODY_BYTES_MAX
from common.kafka.produce.batch import Acknowledged
from order import config
from order.api.log.admission import Admission
from order.api.log.backlog import Backlog
from order.api.place import idempotency
from order.api.place.desk import CATALOGUE_UNREAD
from order.api.place.many import (
    CHUNK_LINES,
    LINES_MAX,
    UNDER_WAY_MAX,
    UNDER_WAY_OF_CUSTOMER_MAX,
    PlaceMany,
    Sent,
    no_room,
    split,
)
from order.api.responses import LINE_PLACED_NOTHING, PLACED_NOTHING, of_line
from tests.unit.order_api import PLACE, Answer, Api, FakeLog, FakeRequests, call
from tests.unit.principals import principal

NDJSON = {"content-type": "application/x-ndjson"}
GOOD = {"customer_id": "cust-1", "product_id": "apple", "quantity": 2}
IN_FLIGHT_MAX = 2_000


def line(**fields: Any) -> bytes:
    return json.dumps({**GOOD, **fields}).encode()


def send(api: Api, *lines: bytes, key: str | None = None, customer: str | None = None) -> Answer:
    headers = NDJSON if key is None else {**NDJSON, "idempotency-key": key}

    async def main() -> Answer | None:
        endpoint = PlaceMany(api.desk, api.keyed, api.log, IN_FLIGHT_MAX, api.limiter)
        return await call(endpoint, [b"\n".join(lines)], headers, customer=customer)

    answer = asyncio.run(main())
    assert answer is not None
    assert answer.headers["content-type"] == "application/x-ndjson"
    return answer


def post(api: Api, *lines: bytes, status: int = 200) -> list[dict[str, Any]]:
    answer = send(api, *lines)
    assert answer.status == status
    return [json.loads(result) for result in answer.content.splitlines()]


def refusal(api: Api, body: bytes, kind: str = "application/x-ndjson") -> int:
    async def main() -> None:
        await call(PlaceMany(api.desk, api.keyed, api.log, IN_FLIGHT_MAX, api.limiter), [body], {"content-type": kind})

    with pytest.raises(ProblemError) as caught:
        asyncio.run(main())
    return caught.value.problem.status


def test_every_line_has_its_result_in_order() -> None:
    api = Api()
    results = post(api, *(line(customer_id=f"cust-{n}") for n in range(LINES_MAX)))
    assert [result["line"] for result in results] == list(range(1, LINES_MAX + 1))
    assert [event.partitionkey for event in api.log.placed] == [f"cust-{n}" for n in range(LINES_MAX)]
    assert [result["order_id"] for result in results] == [event.subject for event in api.log.placed]
    assert {result["status"] for result in results} == {202}


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (line(quantity=0), 422),
        (line(product_id="none"), 422),
        (line(expected_amount=1), 409),
        (line(unknown=1), 422),
        (line(idempotency_key="a b"), 400),
        (line(idempotency_key=1), 422),
        (b'"' + b" " * BODY_BYTES_MAX + b'"', 413),
    ],
)
def test_a_bad_line_does_not_affect_the_others(bad: bytes, status: int) -> None:
    api = Api()
    first, refused, last = post(api, line(), bad, line())
    assert (first["status"], last["status"]) == (202, 202)
    assert refused["line"] == 2
    assert refused["status"] == refused["problem"]["status"] == status
    assert "order_id" not in refused
    assert len(api.log.placed) == 2


def test_blank_lines_have_a_number_and_no_result() -> None:
    assert [result["line"] for result in post(Api(), b"", line(), b" \r", line() + b"\r", b"")] == [2, 4]
    assert post(Api()) == []


def test_a_key_in_a_line_is_the_key_of_a_single_order() -> None:
    api = Api()
    single = api.post(line(), headers={"content-type": "application/json", "idempotency-key": "k"})
    assert single is not None
    keyed = line(idempotency_key="k")
    first, second, other = post(api, keyed, keyed, line(idempotency_key="k", quantity=3))
    assert first["order_id"] == second["order_id"] == single.body["order_id"]
    assert first["idempotency_replayed"] is second["idempotency_replayed"] is True
    assert (other["status"], other["problem"]["type"]) == (422, "/problems/idempotency-key-reused")


def test_a_key_of_the_whole_request_places_each_line_once() -> None:
    api = Api()
    lines = [line(), line(), line(idempotency_key="mine"), line(quantity=0)]
    first, again = send(api, *lines, key="k"), send(api, b"", *lines, key="k")
    orders = [[json.loads(result).get("order_id") for result in sent.content.splitlines()] for sent in (first, again)]
    assert orders[0] == orders[1]
    assert len(set(orders[0])) == 4  # three orders and none
    assert {event.subject for event in api.log.placed} == {*orders[0]} - {None}
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    "others",
    [[line()], [line(), line(), line()], [line(), line(quantity=3)], [line(), line(idempotency_key="a")], [b"{"]],
)
def test_a_key_of_the_whole_request_takes_no_other_lines(others: list[bytes]) -> None:
    api = Api()
    send(api, line(), line(), key="k")
    with pytest.raises(ProblemError) as caught:
        send(api, *others, key="k")
    assert (caught.value.problem.status, caught.value.problem.code) == (422, "idempotency-key-reused")
    assert len(api.log.placed) == 2


def test_a_key_of_the_whole_request_is_not_that_of_a_single_order() -> None:
    api = Api()
    send(api, line(idempotency_key="k"), key="k")
    send(api, line(), key="k-2")
    assert send(api, line(idempotency_key="k-2")).status == 200
    assert len({event.subject for event in api.log.placed}) == 3


def test_each_line_must_be_of_the_customer_who_asks() -> None:
    api = Api()
    sent = send(
        api, line(), line(customer_id="cust-2"), line(customer_id="cust-2", idempotency_key="k"), customer="cust-1"
    )
    results = [json.loads(result) for result in sent.content.splitlines()]
    assert [result["status"] for result in results] == [202, 403, 403]
    assert results[1]["problem"]["type"] == "/problems/forbidden"
    assert [event.data.customer_id for event in api.log.placed] == ["cust-1"]
    assert api.requests.stored == {}
    assert send(api, line(customer_id="cust-2"), customer="cust-1").status == 422


def test_a_customers_keys_of_whole_requests_meet_nobody_elses() -> None:
    api = Api()
    for customer in ("cust-1", "cust-2", None):
        answered = send(api, line(customer_id=customer or "cust-3"), key="k", customer=customer)
        assert "idempotency-replayed" not in answered.headers
    assert len(api.log.placed) == 3
    with pytest.raises(ProblemError) as caught:
        send(api, line(quantity=9), key="k", customer="cust-1")
    assert caught.value.problem.code == "idempotency-key-reused"


def test_a_key_that_cannot_be_stored_places_nothing() -> None:
    api = Api(requests=FakeRequests(away=True))
    with pytest.raises(ProblemError) as caught:
        send(api, line(), key="k")
    assert caught.value.problem.status == 503
    assert not api.log.placed


def test_without_the_database_only_keyed_lines_get_503() -> None:
    api = Api(requests=FakeRequests(away=True))
    assert [result["status"] for result in post(api, line(), line(idempotency_key="k"), line())] == [202, 503, 202]


def test_lines_go_into_the_log_in_their_order_with_keys_and_without() -> None:
    api = Api()
    keys: list[dict[str, Any]] = [{"idempotency_key": f"k{n}"} if n % 3 else {} for n in range(250)]
    results = post(api, *(line(**keyed) for keyed in keys))
    assert [event.subject for event in api.log.placed] == [result["order_id"] for result in results]


class FullLog(FakeLog):
    """Takes this many orders and refuses the next one."""

    def __init__(self, size: int, refused: Problem) -> None:
        super().__init__()
        self.size = size
        self.full = refused

    def send(self, order_id: OrderId, customer_id: str, value: bytes) -> "asyncio.Future[Acknowledged]":
        if len(self.placed) == self.size:
            refused: asyncio.Future[Acknowledged] = asyncio.get_running_loop().create_future()
            refused.set_exception(ProblemError(self.full))
            return refused
        return super().send(order_id, customer_id, value)

    def refusal(self) -> Problem | None:
        return self.full if self.size and len(self.placed) == self.size else None


@pytest.mark.parametrize("size", [CHUNK_LINES, CHUNK_LINES + 1])
def test_a_refused_line_says_so_itself_and_says_when_to_retry(size: int) -> None:
    refused = problem.unavailable(f"full; {PLACED_NOTHING}", retry_after_s=3)
    results = post(Api(FullLog(size, refused)), *[line()] * (2 * CHUNK_LINES))
    assert [result["status"] for result in results] == [202] * size + [503] * (2 * CHUNK_LINES - size)
    assert "retry_after" not in results[0]
    for result in results[size:]:
        assert result["problem"]["detail"] == "full; this line placed nothing, send this line again"
        assert result["retry_after"] == 3


def test_every_refusal_of_an_order_is_worded_for_a_line() -> None:
    overloaded = Backlog(
        config.api(Env("order-api", {"ORDER_DATABASE_URL": "postgresql://", "AUTH": "off"})), lambda _: None
    )
    overloaded.set(Admission(0.0, 0.0, reason="so many wait"))
    refusals: list[Problem | None] = [
        CATALOGUE_UNREAD,
        overloaded.refusal(),
        idempotency.EXPIRED_MEANWHILE,
    ]
    refusals.append(idempotency.not_stored(DatabaseUnavailable("away")))
    for refused in refusals:
        assert refused is not None
        assert LINE_PLACED_NOTHING in of_line(refused).detail
        assert "request" not in of_line(refused).detail


def test_a_refusal_of_many_lines_is_written_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A customer at the limit sends the cheapest request there is; its answer must not be the dearest."""
    written: list[str] = []
    body = Problem.body

    def counted(refused: Problem, request_id: str) -> bytes:
        written.append(request_id)
        return body(refused, request_id)

    monkeypatch.setattr(Problem, "body", counted)
    refused = problem.unavailable("full", retry_after_s=3)
    answers = post(Api(FullLog(0, refused)), *[line()] * CHUNK_LINES, status=503)
    assert [answer["line"] for answer in answers] == list(range(1, CHUNK_LINES + 1))
    assert len(written) == 1


def test_an_unknown_outcome_concerns_only_its_line_and_names_the_order() -> None:
    unknown = ProblemError(problem.unavailable("nobody knows", order_id="the-order"))
    plain, keyed = post(Api(FakeLog(fails=unknown)), line(), line(idempotency_key="k"), status=503)
    assert (plain["status"], plain["problem"]["order_id"]) == (503, "the-order")
    assert "same key" in keyed["problem"]["detail"]


def test_a_request_whose_every_line_is_at_fault_is_422_and_names_each() -> None:
    results = post(Api(), line(quantity=0), b"{", status=422)
    assert [result["status"] for result in results] == [422, 400]


def test_a_request_whose_every_line_is_refused_for_now_is_503_with_the_longest_wait() -> None:
    refused = problem.unavailable(f"full; {PLACED_NOTHING}", retry_after_s=3)
    answer = send(Api(FullLog(0, refused)), line(), line(quantity=0))
    assert (answer.status, answer.headers["retry-after"]) == (503, "3")
    unknown = ProblemError(problem.unavailable("nobody knows", retry_after_s=10, order_id="the-order"))
    answer = send(Api(FakeLog(fails=unknown)), line(idempotency_key="k"), line(quantity=0), line())
    assert (answer.status, answer.headers["retry-after"]) == (503, "10")
    assert [json.loads(result)["status"] for result in answer.content.splitlines()] == [503, 422, 503]


def test_a_request_with_too_many_lines_or_another_type_is_refused_as_a_whole() -> None:
    assert refusal(Api(), b"\n".join([line()] * (LINES_MAX + 1))) == 413
    assert refusal(Api(), line(), "application/json") == 415
    assert refusal(Api(FakeLog(refused=CATALOGUE_UNREAD)), line()) == 503


@pytest.mark.parametrize(
    ("body", "count"), [(b"", 0), (b"x", 1), (b"x\n", 1), (b"x\ny", 2), (b"x\n" * LINES_MAX, LINES_MAX)]
)
def test_a_last_line_feed_begins_no_line(body: bytes, count: int) -> None:
    assert len(split(body)[1]) == count


class SlowLog(FakeLog):
    """Acknowledges when the test allows it; remembers the highest number of orders that waited for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[asyncio.Future[Acknowledged]] = []
        self.most = 0
        self.arrived = asyncio.Event()

    def send(self, order_id: Any, customer_id: str, value: bytes) -> "asyncio.Future[Acknowledged]":
        super().send(order_id, customer_id, value)
        self.waiting.append(asyncio.get_running_loop().create_future())
        self.arrived.set()
        self.most = max(self.most, len(self.waiting))
        return self.waiting[-1]

    async def sent(self, count: int) -> None:
        while len(self.placed) < count:
            self.arrived.clear()
            await self.arrived.wait()

    def acknowledge_all(self) -> None:
        for future in self.waiting:
            future.set_result(PLACE)
        self.waiting.clear()


def in_a_slow_log(act: "Callable[[PlaceMany, SlowLog], Any]", in_flight_max: int) -> SlowLog:
    async def main() -> SlowLog:
        log = SlowLog()
        api = Api(log)
        async with asyncio.timeout(10):
            await act(PlaceMany(api.desk, api.keyed, log, in_flight_max, api.limiter), log)
        return log

    return asyncio.run(main())


def test_all_requests_with_many_orders_leave_half_of_the_room_to_single_orders() -> None:
    async def act(endpoint: PlaceMany, log: SlowLog) -> None:
        requests = asyncio.gather(*(endpoint.place([line()] * 700, None) for _ in range(3)))
        while not requests.done():
            if len(log.waiting) == 500 or len(log.placed) == 2_100:
                log.acknowledge_all()
            await asyncio.sleep(0)
        answers_of_each: list[list[Any]] = await requests
        assert [sum(isinstance(answer, Sent) for answer in answers) for answers in answers_of_each] == [700] * 3

    assert in_a_slow_log(act, 1_000).most == 500


def test_others_are_served_between_two_chunks() -> None:
    async def act(endpoint: PlaceMany, log: SlowLog) -> None:
        placing = asyncio.ensure_future(endpoint.place([line()] * 5 * CHUNK_LINES, None))
        seen = set()
        while not placing.done():
            seen.add(len(log.waiting))
            if len(log.waiting) == 5 * CHUNK_LINES:
                log.acknowledge_all()
            await asyncio.sleep(0)
        assert {CHUNK_LINES * n for n in range(1, 6)} <= seen

    in_a_slow_log(act, IN_FLIGHT_MAX)


def test_the_number_of_requests_under_way_is_limited() -> None:
    async def act(endpoint: PlaceMany, log: SlowLog) -> None:
        requests = [asyncio.ensure_future(call(endpoint, [line()], NDJSON)) for _ in range(UNDER_WAY_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(ProblemError) as caught:
            await call(endpoint, [line()], NDJSON)
        assert caught.value.problem == no_room(Full(UNDER_WAY_MAX, "in all"))
        await log.sent(UNDER_WAY_MAX)
        log.acknowledge_all()
        await asyncio.gather(*requests)
        assert endpoint._under_way.taken == 0

    in_a_slow_log(act, IN_FLIGHT_MAX)


def test_one_customer_takes_only_a_part_of_the_requests_under_way() -> None:
    async def act(endpoint: PlaceMany, log: SlowLog) -> None:
        async def upload(customer: str | None) -> int:
            try:
                answer = await call(endpoint, [line(customer_id=customer or "cust-1")], NDJSON, customer=customer)
            except ProblemError as error:
                refused = no_room(Full(UNDER_WAY_OF_CUSTOMER_MAX, "of this principal"))
                return 0 if error.problem == refused else error.problem.status
            assert answer is not None
            return answer.status

        greedy = [asyncio.ensure_future(upload("greedy")) for _ in range(UNDER_WAY_MAX)]
        modest = [asyncio.ensure_future(upload(f"modest-{n}")) for n in range(5)]
        await log.sent(UNDER_WAY_OF_CUSTOMER_MAX + 5)
        log.acknowledge_all()
        statuses = await asyncio.gather(*greedy)
        assert statuses.count(200) == UNDER_WAY_OF_CUSTOMER_MAX
        assert await asyncio.gather(*modest) == [200] * 5
        assert endpoint._under_way.taken == 0

    in_a_slow_log(act, IN_FLIGHT_MAX)


def test_each_line_counts_for_the_limit_of_its_sender() -> None:
    api = Api(limits=RequestLimits(customer=Rate(1, 3)))
    shop, customer = principal("shop", "merchant"), principal("cust-1")

    async def upload(sender: Principal) -> list[Any]:
        endpoint = PlaceMany(api.desk, api.keyed, api.log, IN_FLIGHT_MAX, api.limiter)
        answer = await call(endpoint, [b"\n".join([line()] * 6)], NDJSON, principal=sender)
        assert answer is not None
        return [json.loads(result) for result in answer.content.splitlines()]

    results = asyncio.run(upload(customer))  # the request itself, which is let in elsewhere, pays for the first line
    assert [result["status"] for result in results] == [202, 202, 202, 202, 429, 429]
    assert results[-1]["retry_after"] == 2
    assert results[-1]["line"] == 6
    assert results[-1]["problem"]["type"] == "/problems/rate-limited"
    assert len(api.log.placed) == 4
    assert [result["status"] for result in asyncio.run(upload(shop))] == [202] * 6


def test_a_request_that_is_sent_again_gets_further_than_before() -> None:
    """What was placed before costs a tenth: without that, a resend would pay for the same lines again, for ever."""
    api = Api(limits=RequestLimits(customer=Rate(1, 10)))
    endpoint = PlaceMany(api.desk, api.keyed, api.log, IN_FLIGHT_MAX, api.limiter)
    body = b"\n".join([line()] * 40)

    async def upload(now: float) -> list[int]:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr("order.api.place.many.perf_counter", lambda: now)
            headers = NDJSON | {"idempotency-key": "basket"}
            answer = await call(endpoint, [body], headers, principal=principal("cust-1"))
        assert answer is not None
        return [json.loads(result)["status"] for result in answer.content.splitlines()]

    async def main() -> list[int]:
        return [(await upload(1_000.0 * hour)).count(202) for hour in range(1, 7)]

    accepted = asyncio.run(main())
    assert accepted == [11, 20, 29, 37, 40, 40]
    assert len({placed.subject for placed in api.log.placed}) == 40
