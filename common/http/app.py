"""The ASGI application of every process: its routes, each behind its rule, /livez, /readyz and /metrics, and each error
as a problem."""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from loguru import logger
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import metrics
from common.auth.access import Access
from common.auth.authenticator import CLOSED, Authenticator
from common.auth.guard import admit, authorizations_of, identify
from common.database import DatabaseUnavailable
from common.http import cors, heads, problem
from common.http.contract.operation import Operation
from common.http.contract.process import LIVEZ, METRICS, READYZ, Alive, ReadinessView
from common.http.contract.service import OperationRoute
from common.http.heads import Hosts
from common.http.limits.limiter import Limiter
from common.http.limits.settings import RequestLimits
from common.http.limits.sources import source_of_request
from common.http.problem import Problem, ProblemError
from common.http.repeats import Repeats
from common.http.requests import ClientGone
from common.http.responses import json_response, problem_response, request_id_of, send_problem

UNKNOWN: Final = (
    "the data may or may not have been changed; read it first or, with an Idempotency-Key, send the request again"
)
PATH_CHARS_SHOWN: Final = 64
PIECE_BYTES: Final = 64 * 1024
"""A larger body is sent in pieces of this size, each when the client has taken most of the one before. TLS encrypts at
once all that it gets: 1.7 MB for each of any number of clients that ask for a script and read nothing."""
CHECKS: Final = frozenset({LIVEZ.path, READYZ.path})
"""They have a limit of their own: a load balancer that shares its address with a busy client must still learn whether
the process lives. On the admin port they have none."""
UNTOLD: Final = "ask on the admin port, or with a token of an operator or an auditor"
"""What a stranger is told of what a process lacks: the rest names addresses and paths."""
_NO_STORE: Final = (b"cache-control", b"no-store")
"""Every answer holds for its moment only. Without this header, a cache may keep some for a while (RFC 9111 §4.2.2)."""
_ANSWERED: Final = "tandem.answered"
"""In the scope of a request: the error that nobody foresaw and that was logged and answered."""
_not_served: Final = Repeats()

Readiness = Callable[[], list[str]]
"""Names what this process lacks to do its work: empty when it is ready."""


class Frame:
    """Pure ASGI around the routes: limits the requests of an address, checks the head of every request, gives every
    response its `x-request-id` and `cache-control`, and counts it by its route and status.

    Pure because two `BaseHTTPMiddleware` cost two thirds of a service's throughput. A `direct` endpoint, by method and
    path, is called past router and middleware; it sets the id and counts for itself (`common.http.responses`).
    """

    def __init__(
        self, app: Starlette, ready: Readiness, direct: Mapping[Operation, ASGIApp], auth: Authenticator
    ) -> None:
        self.app = app
        self.ready = ready
        self.auth = auth
        """With `CLOSED`, only public operations are served."""
        self.admin_port: int | None = None
        self.closed = ""
        """The reason why the public port takes no connections yet; /readyz reports it."""
        self.stopping = False
        self.hosts = Hosts()
        self.limiter = Limiter(RequestLimits())
        self.authorizations_of = authorizations_of
        """The credentials of a request. Only the console takes them from elsewhere too: from a session."""
        self._direct = {
            (operation.method, operation.path): self._counted(self.guarded(operation.access, endpoint))
            for operation, endpoint in direct.items()
        }
        routes = [route for route in app.routes if isinstance(route, OperationRoute)]
        assert len(routes) == len(app.routes), "a route without an operation has no rule"
        for route in routes:
            route.app = self.guarded(route.operation.access, route.app)
        self._templates: dict[object, str] = {route.endpoint: route.path_format for route in routes}
        served = {*self._direct, *((method, route.path_format) for route in routes for method in route.methods or ())}
        for method, path in served:
            metrics.http_requests.labels(method, path, 500)  # from zero, or the first would be no increase

    def guarded(self, access: Access, endpoint: ASGIApp) -> ASGIApp:
        """The endpoint, behind this rule."""
        if access.public:
            return endpoint

        async def guarded_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            if not (access.open_on_admin_port and self._is_admin(scope)):
                await admit(self.auth, self.limiter, access, scope, self.authorizations_of(scope))
            await endpoint(scope, receive, send)

        return guarded_endpoint

    async def tells(self, scope: Scope) -> bool:
        """Whether whoever sends this request to an open operation may know more than a stranger."""
        if self._is_admin(scope):
            return True
        source = source_of_request(scope, self.limiter.proxies)
        try:
            principal = await identify(self.auth, self.limiter, self.authorizations_of(scope), source)
        except ProblemError:
            return False
        return not principal.scopes.isdisjoint(METRICS.access.scopes)

    def _is_admin(self, scope: Scope) -> bool:
        server = scope.get("server")
        return server is not None and server[1] is not None and server[1] == self.admin_port

    @staticmethod
    def _counted(endpoint: ASGIApp) -> ASGIApp:
        """The `direct` endpoint, with an answer to whoever is not let in; the router does that for others."""

        async def counted_endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await endpoint(scope, receive, send)
            except ProblemError as error:
                metrics.http_requests.labels(scope["method"], scope["path"], error.problem.status).inc()
                await send_problem(send, error.problem, request_id_of(scope))

        return counted_endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.hosts.origins and (origin := cors.origin_of(scope["headers"], self.hosts.origins)) is not None:
            send = cors.opened(scope, send, origin)
        refused = self._refusal(scope)
        if refused is not None:
            metrics.http_requests.labels(scope["method"], "unmatched", refused.status).inc()
            await send_problem(send, refused, request_id_of(scope))
            return
        endpoint = self._direct.get((scope["method"], scope["path"]))
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        request_id = request_id_of(scope)

        async def send_framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(_NO_STORE)
                message["headers"] = headers
                route = self._templates.get(scope.get("endpoint"), "unmatched")
                metrics.http_requests.labels(scope["method"], route, message["status"]).inc()
            elif len(body := message.get("body", b"")) > PIECE_BYTES:
                last = (len(body) - 1) // PIECE_BYTES * PIECE_BYTES
                source = source_of_request(scope, self.limiter.proxies)
                self.limiter.charge_source(source, time.perf_counter(), last // PIECE_BYTES)
                for start in range(0, last, PIECE_BYTES):
                    await send({**message, "body": body[start : start + PIECE_BYTES], "more_body": True})
                message["body"] = body[last:]
            await send(message)

        try:
            await self.app(scope, receive, send_framed)
        except Exception as error:
            # Starlette raises an error again after its answer. It would be logged a second time, by uvicorn, which then
            # closes the connection.
            if scope.get(_ANSWERED) is not error:
                raise

    def _refusal(self, scope: Scope) -> Problem | None:
        source = source_of_request(scope, self.limiter.proxies)
        if scope["path"] not in CHECKS:
            limited = self.limiter.refusal_of_source(source, time.perf_counter())
        elif not self._is_admin(scope):
            limited = self.limiter.refusal_to_check(source, time.perf_counter())
        else:
            limited = None
        if limited is not None:
            return limited
        return heads.refusal(scope["method"], scope["http_version"], scope["headers"], self.hosts)


def nothing_missing() -> list[str]:
    """Nothing to report."""
    return []


def application(
    routes: Sequence[OperationRoute],
    ready: Readiness = nothing_missing,
    *,
    degraded: Readiness = nothing_missing,
    direct: Mapping[Operation, ASGIApp] = MappingProxyType({}),
    auth: Authenticator = CLOSED,
) -> Frame:
    """The routes of a service together with /livez, /readyz and /metrics; every error as a problem document.

    `degraded` names what is away although the process can do its main work. For `direct` see `Frame`. `auth` tells who
    asks; by default `serve` makes it from the settings of the process.
    """

    def what_is_missing() -> list[str]:
        return [*ready(), *frame.auth.missing(), *([frame.closed] if frame.closed else [])]

    def what_is_degraded() -> list[str]:
        return [*degraded(), *frame.auth.degraded()]

    async def livez(_: Request) -> Response:
        return json_response(Alive())

    async def readyz(request: Request) -> Response:
        missing = what_is_missing()
        if await frame.tells(request.scope):
            view = ReadinessView(not missing, missing, what_is_degraded())
        else:
            view = ReadinessView(not missing, [UNTOLD] if missing else [], [])
        return json_response(view, 503 if missing else 200)

    async def exposition(_: Request) -> Response:
        metrics.ready.set(not what_is_missing())
        metrics.degraded.set(len(what_is_degraded()))
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.scope["path"]
        if request.method == "OPTIONS" and (methods := methods_of(path)):
            return Response(status_code=204, headers={"allow": ", ".join(sorted({*methods, "OPTIONS"}))})
        kind = problem.METHOD_NOT_ALLOWED if error.status_code == 405 else problem.NOT_FOUND
        response = problem_response(request, Problem(kind, f"{request.method} {path[:PATH_CHARS_SHOWN]!r}"))
        if error.status_code == 405:
            response.headers["allow"] = ", ".join(sorted({*methods_of(path), "OPTIONS"}))
        return response

    def methods_of(path: str) -> set[str]:
        """All methods that a path takes, or any path (`*`); Starlette would name those of one route."""
        methods = {str(operation.method) for operation in direct if path in (operation.path, "*")}
        for route in app.routes:
            if isinstance(route, OperationRoute) and (path == "*" or route.path_regex.match(path)):
                methods |= route.methods or set()
        return methods

    app = Starlette(
        routes=[
            *routes,
            OperationRoute(LIVEZ, livez),
            OperationRoute(READYZ, readyz),
            OperationRoute(METRICS, exposition),
        ],
        exception_handlers={
            HTTPException: on_http,
            **dict.fromkeys((ProblemError, ClientGone, DatabaseUnavailable, Exception), _on_error),
        },
    )
    app.router.redirect_slashes = False  # a redirect would repeat whatever host the client has named
    frame = Frame(app, ready, direct, auth)
    return frame


async def _on_error(request: Request, error: Exception) -> Response:
    path = request.url.path
    match error:
        case ProblemError():
            return problem_response(request, error.problem)
        case ClientGone():
            return Response(status_code=400)  # for the count; nobody reads it
        case DatabaseUnavailable():
            if times := _not_served.count(time.monotonic()):
                logger.warning("not served: {}", error, path=path, times=times)
            outcome = "; nothing was changed" if error.unchanged else f"; {UNKNOWN}"
            detail = str(error) if request.method in ("GET", "HEAD") else f"{error}{outcome}"
            return problem_response(request, problem.unavailable(detail))
    logger.opt(exception=error).error("unhandled error", path=path)
    request.scope[_ANSWERED] = error
    return problem_response(request, problem.INTERNAL)
