"""The order api: its routes, and how its parts fit together.

It is ready when orders can be placed: Kafka answers and the catalogue is read. Orders can be placed, and those just
placed be looked up, without the order database too; so /readyz reports its absence as `degraded`, not as missing.
"""

import asyncio
from functools import partial
from time import perf_counter
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from common.asyncapi import page as asyncapi
from common.auth.authenticator import authenticator
from common.auth.guard import confined_to, principal_of
from common.database import Database
from common.http import problem, server
from common.http.app import application
from common.http.caching import NO_STORE, next_page
from common.http.connections import make_room
from common.http.contract.operation import Operation
from common.http.contract.service import Endpoint
from common.http.heads import Hosts
from common.http.limits.limiter import Limiter
from common.http.problem import ProblemError
from common.http.responses import json_response
from common.http.validation import decode_query
from common.tracing.live import tracer_of
from order.api.log.backlog import Backlog
from order.api.log.catalogue import Catalogue
from order.api.log.orders_log import OrdersLog
from order.api.log.recent import RecentOrders
from order.api.operations import CANCEL, CONTRACT, GET, LIST, PLACE, PLACE_MANY, STREAM
from order.api.place.cancel import CancelOrder
from order.api.place.desk import OrderDesk
from order.api.place.fast_lane import FastLane, accepted_head, head_reader
from order.api.place.idempotency import KeyedOrders
from order.api.place.keyed_requests import KeyedRequests
from order.api.place.many import PlaceMany
from order.api.place.single import PlaceOrder
from order.api.read.lookup import Lookup
from order.api.read.outcomes import WATCHED_MAX, Outcomes
from order.api.read.queries import OrderQueries
from order.api.read.stream import STREAMS_MAX, OrderEvents
from order.api.requests import PageRequest
from order.config import Api

ORDERS_A_REQUEST: Final = 20
"""A page of a list counts as a request for each of so many orders in it, for the limit of its reader: a hundred large
orders take 7 ms."""
CANCEL_TIMEOUT_S: Final = 1.0
"""A query that is cancelled first asks the server to give up, and a frozen one never answers."""


async def serve(settings: Api) -> None:
    """Run the api until it is told to stop; what is in flight then is still acknowledged and answered."""
    process = settings.process
    recent = RecentOrders()
    catalogue = Catalogue(process.brokers, process.instance)
    tracer = tracer_of(process.service, process.tracing)
    log = OrdersLog(settings, recent, tracer)
    database = Database(process, "order")
    queries, requests = OrderQueries(database.reads), KeyedRequests(database.writes)
    backlog = Backlog(settings, log.set_linger)
    desk = OrderDesk(catalogue, log, backlog, None if tracer is None else tracer.sampling)
    keyed = KeyedOrders(desk, requests, log, recent)
    auth, limiter = authenticator(process.auth), Limiter(process.limits)
    room = make_room()
    outcomes = Outcomes(queries, lambda: app.stopping, min(WATCHED_MAX, 2 * room.long_lived))
    forgetting: list[asyncio.Task[None]] = []

    def missing() -> list[str]:
        return catalogue.missing() + log.missing()

    def degraded() -> list[str]:
        away = [f"{away}; orders are taken, but cannot be looked up" for away in database.away()]
        return away + [str(drift) for drift in log.settings.drift]

    async def open_() -> None:
        await database.open()
        forgetting.append(asyncio.create_task(requests.keep_forgetting()))

    async def close() -> None:
        for task in forgetting:
            task.cancel()
        await requests.close()  # the clients of some may have gone; what is stored is then sent
        await log.close()
        await asyncio.wait(forgetting, timeout=CANCEL_TIMEOUT_S)
        await database.close()

    lookup = Lookup(queries, recent, log)
    endpoints: dict[Operation, Endpoint] = {
        PLACE_MANY: PlaceMany(desk, keyed, log, settings.in_flight_max, limiter),
        STREAM: OrderEvents(lookup, outcomes, auth, min(STREAMS_MAX, room.long_lived)),
        CANCEL: CancelOrder(lookup, requests, log),
        **reads(lookup, queries, limiter),
    }
    app = application(
        CONTRACT.routes(endpoints, elsewhere=(PLACE,)),
        missing,
        degraded=degraded,
        direct=CONTRACT.direct({PLACE: PlaceOrder(desk, keyed, outcomes)}),
        auth=auth,
    )
    read_head = head_reader(Hosts(process.host, process.allowed_hosts))
    accepted = accepted_head(PLACE.deprecation.headers() if PLACE.deprecation else ())
    lane = partial(
        FastLane, desk=desk, keyed=keyed, log=log, read_head=read_head, auth=auth, limiter=limiter, accepted=accepted
    )
    tasks: list[server.Task] = [catalogue, log, backlog]

    def not_yet_serving() -> list[str]:
        return missing() + database.undetermined()

    await server.serve(
        app,
        process,
        tasks,
        open_=open_,
        close=close,
        protocol=lane,
        listen_when=not_yet_serving,
        limiter=limiter,
    )


def reads(lookup: Lookup, queries: OrderQueries, limiter: Limiter) -> dict[Operation, Endpoint]:
    """The endpoints that are no bare ASGI."""

    async def get_order(request: Request) -> Response:
        order = (await lookup.find(request.path_params["order_id"], confined_to(request.scope))).view
        return json_response(order, headers=None if order.settled else NO_STORE)

    async def list_orders(request: Request) -> Response:
        query = decode_query(request.query_params, PageRequest)
        if confined_to(request.scope) not in (None, query.customer_id):
            raise ProblemError(problem.not_found("customer", query.customer_id))
        page = await queries.page(query)
        if (further := (len(page.orders) - 1) // ORDERS_A_REQUEST) > 0:
            limiter.charge(principal_of(request.scope), perf_counter(), further)
        return json_response(page, headers=next_page(request, page.next_cursor))

    return {LIST: list_orders, GET: get_order, **asyncapi.endpoints()}
