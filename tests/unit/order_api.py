"""The order api's endpoints on fakes of Kafka and the database. The fakes accept everything unless told otherwise."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from common.auth.principal import ANYONE, Principal
from common.database import DatabaseUnavailable
from common.events import Milliseconds, OrderId, OrderPlaced, ProductData
from common.http.limits.limiter import Limiter
from common.http.limits.settings import RequestLimits
from common.http.problem import Problem
from common.kafka.produce.batch import Acknowledged
from common.keyed_answers import Answer as Answered
from common.keyed_answers import Keyed, KeyReused
from order.api.log.backlog import Backlog
from order.api.log.catalogue import Catalogue
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import RecentOrders
from order.api.place.desk import OrderDesk
from order.api.place.idempotency import KeyedOrders
from order.api.place.keyed_requests import First, KeyedRequest, KeyedRequests
from order.api.place.single import PlaceOrder
from order.api.read.outcomes import Outcomes
from order.api.read.queries import OrderQueries, Stored, Watched
from tests.routes import state_of
from tests.unit.principals import principal as named_principal

JSON = {"content-type": "application/json"}
PLACE = Acknowledged(3, 17, Milliseconds(1))


def product(product_id: str, unit_price: int = 100, *, currency: str = "EUR", active: bool = True) -> ProductData:
    return ProductData(
        product_id=product_id, name=product_id, unit_price=unit_price, currency=currency, active=active, version=1
    )


PRODUCTS = {
    p.product_id: p
    for p in (
        product("apple", 150),
        product("pear", 250),
        product("dollar", currency="USD"),
        product("old", active=False),
    )
}


class FakeCatalogue(Catalogue):
    def __init__(self, products: Mapping[str, ProductData] = PRODUCTS) -> None:
        self.products = products


class FakeLog(OrdersLog):
    """Keeps the orders it accepts: as events in `placed`, as bytes in `values`."""

    def __init__(self, *, refused: Problem | None = None, fails: Exception | None = None) -> None:
        self.placed: list[OrderPlaced] = []
        self.values: list[bytes] = []
        self.refused = refused
        self.fails = fails

    def refusal(self) -> Problem | None:
        return self.refused

    def send(self, order_id: OrderId, customer_id: str, value: bytes) -> "asyncio.Future[Acknowledged]":
        sent: asyncio.Future[Acknowledged] = asyncio.get_running_loop().create_future()
        if self.fails is None:
            event = msgspec.json.decode(value, type=OrderPlaced)
            assert (event.subject, event.partitionkey) == (order_id, customer_id)
            self.placed.append(event)
            self.values.append(value)
        sent.set_result(PLACE)
        return sent

    def fate(self, order_id: OrderId, customer_id: str, sent: "asyncio.Future[Acknowledged]") -> Acknowledged:
        if self.fails is not None:
            raise self.fails
        return sent.result()


class FakeBacklog(Backlog):
    """Admits all orders, unless told why not."""

    def __init__(self, refused: Problem | None = None) -> None:
        self.refused = refused

    def refusal(self) -> Problem | None:
        return self.refused

    def refusal_of_many(self, orders: int) -> Problem | None:
        return self.refused


class FakeRequests(KeyedRequests):
    """The stored requests, in a dictionary that several processes may share."""

    pending: "asyncio.Future[First | None]"
    asked: KeyedRequest

    def __init__(
        self, stored: dict[tuple[str, str], First] | None = None, *, away: bool = False, slow: bool = False
    ) -> None:
        """A slow one leaves the answer to what was `asked` last `pending`."""
        self.stored = {} if stored is None else stored
        self.answers: dict[tuple[str, str], tuple[bytes, Answered]] = {}
        self.away, self.slow = away, slow

    async def find(self, keyed: Keyed) -> Answered | None:
        if self.away:
            raise DatabaseUnavailable("away")
        request_hash, answer = self.answers.get((keyed.resource, keyed.key), (keyed.hash, None))
        if request_hash != keyed.hash:
            raise KeyReused
        return answer

    async def keep(self, keyed: Keyed, answer: Answered) -> Answered:
        first = await self.find(keyed)
        self.answers.setdefault((keyed.resource, keyed.key), (keyed.hash, answer._replace(replayed=True)))
        return first or answer

    def submit(self, request: KeyedRequest) -> "asyncio.Future[First | None]":
        if self.away:
            raise DatabaseUnavailable("away")
        answer = self.pending = asyncio.get_running_loop().create_future()
        self.asked = request
        if self.slow:
            return answer
        if request.first is not None:
            self.stored.setdefault((request.customer_id, request.key), request.first)
        answer.set_result(self.stored.get((request.customer_id, request.key)))
        return answer


class FakeQueries(OrderQueries):
    """The order database: each query for news gets the next of these answers."""

    def __init__(self, *answers: Iterable[Stored] | Exception) -> None:
        self.answers = list(answers)
        self.watched: list[Sequence[Watched]] = []

    async def news(self, watched: Sequence[Watched]) -> list[Stored]:
        self.watched.append(watched)
        answer = self.answers.pop(0) if self.answers else ()
        if isinstance(answer, Exception):
            raise answer
        return list(answer)


class Answer:
    """What an endpoint sent."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        start, *rest = messages
        self.status: int = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.content = b"".join(message.get("body", b"") for message in rest)
        if "content-length" in self.headers:
            assert int(self.headers["content-length"]) == len(self.content)

    @property
    def body(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.content)
        return document


NO_LIMITS = RequestLimits()


class Api:
    """One process's endpoints."""

    def __init__(
        self,
        log: FakeLog | None = None,
        *,
        products: Mapping[str, ProductData] = PRODUCTS,
        requests: FakeRequests | None = None,
        queries: FakeQueries | None = None,
        limits: RequestLimits = NO_LIMITS,
    ) -> None:
        self.log = log or FakeLog()
        self.catalogue = FakeCatalogue(products)
        self.requests = requests or FakeRequests()
        self.recent = RecentOrders()
        self.limiter = Limiter(limits)
        self.stopping = False
        self.desk = OrderDesk(self.catalogue, self.log, FakeBacklog())
        self.keyed = KeyedOrders(self.desk, self.requests, self.log, self.recent)
        self.outcomes = Outcomes(queries or FakeQueries(), lambda: self.stopping)

    def post(
        self, *chunks: bytes, headers: Mapping[str, str] = JSON, gone: bool = False, customer: str | None = None
    ) -> Answer | None:
        """Place an order whose body comes in chunks; None if no answer was sent because the client had `gone`."""
        endpoint = PlaceOrder(self.desk, self.keyed, self.outcomes)
        return asyncio.run(call(endpoint, chunks, headers, gone=gone, customer=customer))


async def call(
    endpoint: Any,
    chunks: Sequence[bytes],
    headers: Mapping[str, str] | Sequence[tuple[str, str]],
    *,
    gone: bool = False,
    order_id: str = "",
    customer: str | None = None,
    principal: Principal = ANYONE,
) -> Answer | None:
    """A POST to a bare ASGI endpoint."""
    incoming: list[dict[str, Any]] = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if gone:
        incoming.append({"type": "http.disconnect"})
    elif incoming:
        incoming[-1]["more_body"] = False
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    named = headers.items() if isinstance(headers, Mapping) else headers
    encoded = [(name.encode(), value.encode()) for name, value in named]
    parameters = {"order_id": order_id}
    scope = {"type": "http", "method": "POST", "path": "/api/v1/orders", "headers": encoded, "path_params": parameters}
    if customer is not None:
        principal = named_principal(customer)
    scope["state"] = state_of(customer) | {"principal": principal}
    await endpoint(scope, receive, send)
    return Answer(sent) if sent else None
