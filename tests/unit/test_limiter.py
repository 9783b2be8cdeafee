"""The limits of requests: who is refused, what a refusal says, and that the modest are not refused with the greedy."""

import asyncio
import re
import time
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, cast

import httpx
import pytest
from loguru import logger
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response

from common.auth.access import own
from common.auth.authenticator import Open
from common.auth.guard import admit, identify
from common.auth.principal import ANYONE, Expired, Principal, Unauthenticated, UnknownKey
from common.config.env import Env
from common.errors import Fatal
from common.http.app import PIECE_BYTES, application
from common.http.contract.service import OperationRoute
from common.http.heads import Hosts
from common.http.limits.buckets import Rate
from common.http.limits.limiter import CHECKS, Limiter
from common.http.limits.settings import RequestLimits, request_limits
from common.http.problem import ProblemError
from common.http.responses import json_response
from order.api.app import reads
from order.api.operations import LIST
from order.api.read.lookup import Lookup
from order.api.requests import PageRequest
from order.api.responses import OrderPage
from tests.routes import public, public_route
from tests.unit.order_api import FakeQueries
from tests.unit.principals import ByName, principal
from tests.unit.test_outcomes import stored

NOW = 5_000.0
CUSTOMER = principal("cust-1")
LIMITS = RequestLimits(customer=Rate(50, 200), machine=Rate(10_000, 20_000), address=Rate(1, 3), failures=Rate(1, 20))


def test_a_refusal_says_the_limit_and_when_to_come_again() -> None:
    limiter = Limiter(LIMITS)
    answers = [limiter.refusal_of_principal(CUSTOMER, NOW) for _ in range(201)]
    assert answers[:200] == [None] * 200
    refusal = answers[-1]
    assert refusal is not None
    assert (refusal.status, refusal.retry_after_s) == (429, 1)
    assert refusal.detail == "requests of the customer 'cust-1': over 50 a second (200 at once)"
    assert dict(refusal.headers) == {"ratelimit-policy": '"customer";q=200;w=4', "ratelimit": '"customer";r=0;t=1'}


@pytest.mark.parametrize("scopes", [{"merchant"}, {"customer", "merchant"}, {"operator"}, {"auditor"}])
def test_a_machine_may_send_5000_orders_a_second(scopes: set[str]) -> None:
    limiter, shop = Limiter(LIMITS), principal("shop", *scopes)
    for second in range(10):
        for n in range(5_000):
            assert limiter.refusal_of_principal(shop, NOW + second + n / 5_000) is None


def test_one_greedy_customer_takes_nothing_from_a_hundred_modest_ones() -> None:
    """All from one address, as behind a proxy or in one house: each modest one asks once a second, the greedy one 1,000
    times."""
    limiter = Limiter(RequestLimits(customer=Rate(50, 200), address=Rate(10_000, 20_000)))
    served = {"greedy": 0, "modest": 0}
    for second in range(20):
        for n in range(1_000):
            now = NOW + second + n / 1_000
            names = ["greedy"] if n % 10 else ["greedy", f"modest-{n // 10}"]
            for name in names:
                refused = limiter.refusal_of_source("house", now) or limiter.refusal_of_principal(principal(name), now)
                served[name.partition("-")[0]] += refused is None
    assert served["modest"] == 20 * 100
    assert 200 + 19 * 50 <= served["greedy"] <= 200 + 20 * 50


def test_lines_count_each_and_are_taken_as_far_as_they_go() -> None:
    limiter = Limiter(LIMITS)
    before = counted("customer")
    taken, refusal = limiter.lines_of_principal(CUSTOMER, NOW, 150)
    assert (taken, refusal) == (150, None)
    taken, refusal = limiter.lines_of_principal(CUSTOMER, NOW, 1_000)
    assert taken == 50
    assert refusal is not None
    assert refusal.retry_after_s == 4  # not for all of them: more than a burst never comes at once
    assert counted("customer") - before == 950


@pytest.mark.parametrize(("orders", "counted"), [(0, 1), (20, 1), (21, 2), (100, 5)])
def test_a_long_page_counts_as_many_requests(orders: int, counted: int) -> None:
    class Pages(FakeQueries):
        async def page(self, request: PageRequest) -> OrderPage:
            return OrderPage([stored().view] * orders, None)

    limiter = Limiter(RequestLimits(customer=Rate(1, 10)))
    endpoint: Any = reads(cast("Lookup", None), Pages(), limiter)[LIST]
    state = {"principal": CUSTOMER, "confined_to": "cust-1"}
    scope = {"type": "http", "headers": [], "query_string": b"customer_id=cust-1&limit=100", "state": state}
    assert limiter.refusal_of_principal(CUSTOMER, time.perf_counter()) is None  # who lets it in counts it
    assert asyncio.run(endpoint(Request(scope))).status_code == 200
    left = limiter.lines_of_principal(CUSTOMER, time.perf_counter(), 100)[0]
    assert left == 10 - counted


def test_guessing_is_limited_and_the_credentials_of_others_are_checked_again_later() -> None:
    limiter = Limiter(LIMITS)
    for _ in range(20):
        assert limiter.refusal_to_verify("192.0.2.1", NOW) is None
        limiter.failed("192.0.2.1", NOW)
    assert limiter.refusal_to_verify("192.0.2.1", NOW) is not None
    assert limiter.refusal_to_verify("192.0.2.2", NOW) is None
    assert limiter.refusal_to_verify("192.0.2.1", NOW + 1.1) is None


class Refusing(Open):
    """Refuses credentials as an authenticator does."""

    def __init__(self, error: Unauthenticated) -> None:
        self.error = error

    def known(self, authorization: bytes | None) -> Principal | None:
        return None

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        raise self.error


@pytest.mark.parametrize(
    ("error", "statuses"),
    [
        (Unauthenticated("the token is not signed by a key of the issuer"), {401, 429}),
        (Expired("the token has expired"), {401}),
        (UnknownKey("the token is not signed by a key of the issuer"), {401}),
    ],
)
def test_clients_whose_tokens_have_ended_lock_nobody_out(error: Unauthenticated, statuses: set[int]) -> None:
    limiter = Limiter(RequestLimits(failures=Rate(1, 20)))
    answered = set()
    for _ in range(40):
        with pytest.raises(ProblemError) as caught:
            asyncio.run(identify(Refusing(error), limiter, [b"Bearer x"], "192.0.2.1"))
        answered.add(caught.value.problem.status)
    assert answered == statuses


class Forgetful(Open):
    """Has every credential verified, as a process does that sees each for the first time."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self.verified = 0

    def known(self, authorization: bytes | None) -> Principal | None:
        return None

    async def authenticate(self, authorizations: Sequence[bytes]) -> Principal:
        self.verified += 1
        return self.principal


def test_many_tokens_of_a_customer_at_the_limit_are_not_all_verified() -> None:
    limiter, authenticator = Limiter(RequestLimits(customer=Rate(1, 5), failures=Rate(1, 20))), Forgetful(CUSTOMER)
    for number in range(1_000):
        scope: dict[str, Any] = {"headers": [], "client": ("192.0.2.1", 1)}
        with suppress(ProblemError):
            asyncio.run(admit(authenticator, limiter, own(), scope, [b"Bearer %d" % number]))
    assert 25 <= authenticator.verified < 200
    assert asyncio.run(identify(authenticator, limiter, [b"Bearer x"], "192.0.2.2")) == CUSTOMER


def test_new_tokens_of_a_customer_below_the_limit_do_not_count_as_guesses() -> None:
    limiter, authenticator = (
        Limiter(RequestLimits(customer=Rate(1_000, 1_000), failures=Rate(1, 1))),
        Forgetful(CUSTOMER),
    )
    for _ in range(100):
        asyncio.run(identify(authenticator, limiter, [b"Bearer x"], "192.0.2.1"))
    assert limiter.refusal_to_verify("192.0.2.1", time.perf_counter()) is None


def test_without_a_rate_nothing_is_refused() -> None:
    limiter = Limiter(RequestLimits())
    for _ in range(10_000):
        assert limiter.refusal_of_source("a", NOW) is None
        assert limiter.refusal_of_principal(CUSTOMER, NOW) is None
        limiter.failed("a", NOW)
    assert limiter.refusal_to_verify("a", NOW) is None
    assert limiter.lines_of_principal(CUSTOMER, NOW, 1_000) == (1_000, None)


def test_with_auth_off_nobody_is_limited_as_a_principal() -> None:
    limiter = Limiter(RequestLimits(customer=Rate(1, 1), machine=Rate(1, 1)))
    assert [limiter.refusal_of_principal(ANYONE, NOW) for _ in range(3)] == [None] * 3
    assert limiter.refusal_of_principal(CUSTOMER, NOW) is None
    assert limiter.refusal_of_principal(CUSTOMER, NOW) is not None


def counted(limit: str) -> float:
    return REGISTRY.get_sample_value("tandem_http_limited_total", {"limit": limit}) or 0.0


def test_refusals_are_logged_now_and_then() -> None:
    limiter, lines = Limiter(LIMITS), list[str]()
    sink = logger.add(lambda line: lines.append(str(line)), level="WARNING", format="{message}|{extra[last]}")
    try:
        for _ in range(100):
            limiter.refusal_of_source("192.0.2.1", NOW)
        limiter.refusal_of_source("192.0.2.1", NOW + 0.5)
    finally:
        logger.remove(sink)
    assert lines == ["over the limit of requests: 1 refused|192.0.2.1\n"]


async def things(_: Request) -> Response:
    return json_response([])


def test_requests_over_the_limit_of_their_address_are_refused_and_health_is_not() -> None:
    app = application([public_route("/things", things)])
    app.limiter = Limiter(LIMITS)

    async def run() -> tuple[list[httpx.Response], httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return [await client.get("/things") for _ in range(4)], await client.get("/livez")

    [*served, refused], alive = asyncio.run(run())
    assert [response.status_code for response in served] == [200] * 3
    assert (refused.status_code, refused.headers["retry-after"], alive.status_code) == (429, "1", 200)
    assert refused.json()["type"] == "/problems/rate-limited"
    assert refused.headers["ratelimit-policy"] == '"address";q=3;w=3'
    assert refused.headers["ratelimit"] == '"address";r=0;t=1'


def test_health_checks_have_a_limit_of_their_own_on_the_public_port() -> None:
    app = application([])
    app.limiter = Limiter(RequestLimits(address=Rate(1, 1)))

    async def statuses(port: int) -> set[int]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=f"http://localhost:{port}") as client:
            return {(await client.get("/livez")).status_code for _ in range(2 * CHECKS.burst)}

    assert asyncio.run(statuses(8081)) == {200, 429}
    app.admin_port = 18101
    assert asyncio.run(statuses(18101)) == {200}


def test_a_large_answer_counts_for_more_requests() -> None:
    async def large(_: Request) -> Response:
        return Response(b"x" * (3 * PIECE_BYTES))

    app = application([public_route("/large", large), public_route("/things", things)])
    app.limiter = Limiter(RequestLimits(address=Rate(1, 4)))

    async def run() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return [(await client.get(path)).status_code for path in ("/things", "/large", "/things")]

    assert asyncio.run(run()) == [200, 200, 429]


def test_a_page_of_an_allowed_origin_can_read_when_to_come_again() -> None:
    app = application([public_route("/things", things)])
    app.limiter = Limiter(RequestLimits(address=Rate(1, 1)))
    app.hosts = Hosts(origins=frozenset({b"https://shop.example"}))

    async def run() -> list[httpx.Response]:
        headers = {"origin": "https://shop.example"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return [await client.get("/things", headers=headers) for _ in range(2)]

    served, refused = asyncio.run(run())
    assert (served.status_code, refused.status_code) == (200, 429)
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"
    exposed = refused.headers["access-control-expose-headers"].split(", ")
    assert {"retry-after", "ratelimit", "ratelimit-policy"} <= {*exposed}


def test_a_principal_is_limited_and_guesses_from_its_address_do_not_lock_it_out() -> None:
    auth = ByName(principal("ann"), principal("bob"))
    app = application([OperationRoute(replace(public("/things"), access=own()), things)], auth=auth)
    app.limiter = Limiter(RequestLimits(customer=Rate(1, 4), failures=Rate(1, 2)))

    async def run() -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            sent = ["ann", "ann", "eve-1", "eve-2", "eve-3", "bob", "ann", "", "ann", "ann"]
            headers = [{"authorization": f"Bearer {name}"} if name else {} for name in sent]
            return [(await client.get("/things", headers=each)).status_code for each in headers]

    # A new credential is not looked at while guesses are refused; one that is known is, until its own limit is reached.
    assert asyncio.run(run()) == [200, 200, 401, 401, 429, 429, 200, 401, 200, 429]
    assert auth.verified == [b"Bearer ann", b"Bearer eve-1", b"Bearer eve-2"]


@pytest.mark.parametrize("limits", [RequestLimits(address=Rate(1, 1)), RequestLimits(customer=Rate(1, 1))])
def test_a_request_over_the_limit_is_refused_before_its_body_is_read(limits: RequestLimits) -> None:
    async def reading(request: Request) -> Response:
        return json_response([len(await request.body())])

    auth = ByName(principal("ann"))
    app = application([OperationRoute(replace(public("/things"), access=own()), reading)], auth=auth)
    app.limiter = Limiter(limits)
    bodies, statuses = [b"{}"], []

    async def body() -> dict[str, object]:
        return {"type": "http.request", "body": bodies.pop(), "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer ann"), (b"content-length", b"2")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": "/things", "raw_path": b"/things", "query_string": b"", "root_path": "", "headers": headers,
        "client": ("192.0.2.1", 1), "server": ("localhost", 8081), "state": {},
    }  # fmt: skip
    for _ in range(2):
        asyncio.run(app(dict(scope), body, send))
    assert (statuses, bodies) == ([200, 429], [])


def test_the_defaults_and_how_a_limit_is_switched_off() -> None:
    assert request_limits(Env("api", {})) == RequestLimits(
        Rate(50, 200), Rate(10_000, 20_000), Rate(10_000, 20_000), Rate(1, 20)
    )
    environ = {"LIMIT_CUSTOMER": "0", "LIMIT_ADDRESS": "7/9", "TRUSTED_PROXIES": "10.0.0.0/8, 192.0.2.1"}
    limits = request_limits(Env("api", environ))
    assert (limits.customer, limits.address) == (None, Rate(7, 9))
    assert limits.trusted_proxies == (ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32"))


@pytest.mark.parametrize("value", ["50", "50/", "0/5", "5/0", "-1/5", "50/200/7", "1e3/5", "50/1000001", "a/b"])
def test_a_wrong_limit_is_named_with_what_is_allowed(value: str) -> None:
    allowed = "A_SECOND/AT_ONCE, such as 50/200, each from 1 to 1000000; 0 for no limit"
    with pytest.raises(Fatal, match=f"^api: LIMIT_CUSTOMER='{re.escape(value)}' must be {allowed}$"):
        request_limits(Env("api", {"LIMIT_CUSTOMER": value}))


@pytest.mark.parametrize("value", ["gateway", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8,"])
def test_a_wrong_proxy_is_named(value: str) -> None:
    with pytest.raises(
        Fatal, match=r"^api: TRUSTED_PROXIES: '.*' must be an address or a network, such as 10.0.0.0/8$"
    ):
        request_limits(Env("api", {"TRUSTED_PROXIES": value}))
