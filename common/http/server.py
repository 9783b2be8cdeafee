"""HTTP for every process: the sockets, the server, request ids, problem documents, health and metrics.

Instances of one service share its public port by SO_REUSEPORT (the kernel spreads connections over them) and each has
an admin port of its own, where a supervisor or a scraper reaches exactly this instance. Both serve the same routes.
"""

import asyncio
import contextlib
import gc
import random
import re
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeVar

import msgspec
import orjson
import psycopg
import uvicorn
from loguru import logger
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from psycopg_pool import PoolTimeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common import metrics
from common.config import Http
from common.errors import Fatal
from common.http import problem
from common.http.problem import Problem, ProblemError
from common.http.protocol import Protocol as HttpProtocol

BODY_BYTES_MAX = 64 * 1024
JSON: Final = b"application/json"
BACKLOG_CONNECTIONS = 2_048
LOOK_EVERY_TICKS = 10
DRAIN_S = 8
GC_OBJECTS = 50_000
READING: Final = frozenset(("GET", "HEAD"))
DATABASE_AWAY: Final = problem.unavailable("the database cannot be reached; nothing was changed")
READ_FAILED: Final = problem.unavailable("the database has not answered in time; nothing was changed")
WRITE_UNKNOWN: Final = problem.unavailable(
    "the database has not confirmed this: it may or may not have been changed; look first, or, if it had an "
    "Idempotency-Key, send it again with the same one"
)
REQUEST_ID_PATTERN = re.compile(rb"[\x21-\x7e]{1,128}")

Readiness = Callable[[], list[str]]
"""What is missing before this process can do its work: empty when it is ready."""


class Task(Protocol):
    """Something that runs beside HTTP for as long as the process lives."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def missing(self) -> list[str]: ...


class ClientGone(Exception):
    """The client closed the connection before its request had arrived. There is nobody to answer."""


_HOST: Final = Problem(
    code="malformed-request",
    title="Malformed request",
    status=400,
    detail="a request of HTTP/1.1 has exactly one host header (RFC 9112 §3.2)",
)


class Frame:
    """Pure ASGI around the routes: every response carries `x-request-id` and is counted by its route and status.

    Pure because two `BaseHTTPMiddleware` cost two thirds of a service's throughput. A `direct` endpoint, by method and
    path, is called past router and middleware; it sets the id and counts for itself (`request_id`, `counter`).
    """

    def __init__(self, app: Starlette, direct: Mapping[tuple[str, str], ASGIApp]) -> None:
        self.app = app
        self.stopping = False
        """Set while the process drains: /readyz says so."""
        self._direct = direct
        self._templates = {route.endpoint: route.path for route in app.routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["http_version"] == "1.1" and sum(name == b"host" for name, _ in scope["headers"]) != 1:
            counter(scope["method"], "unmatched", _HOST.status).inc()
            await send_problem(send, _HOST, request_id_of(scope))
            return
        endpoint = self._direct.get((scope["method"], scope["path"]))
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        request_id = request_id_of(scope)

        async def send_framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
                counter(scope["method"], self._route(scope), message["status"]).inc()
            await send(message)

        await self.app(scope, receive, send_framed)

    def _route(self, scope: Scope) -> str:
        endpoint = scope.get("endpoint")
        return "unmatched" if endpoint is None else self._templates.get(endpoint, "unmatched")


def counter(method: str, route: str, status: int) -> Counter:
    """What counts the responses of a route with a status."""
    return metrics.http_requests.labels(method, route, status)


def request_id_of(scope: Scope) -> bytes:
    """The id in the `x-request-id` header if that is fit to be repeated, else a new one; kept in the scope."""
    state: dict[str, Any] = scope.setdefault("state", {})
    known: bytes | None = state.get("request_id")
    if known is None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        known = state["request_id"] = request_id(given)
    return known


def request_id(given: bytes | None) -> bytes:
    """The caller's id if it is fit to be repeated, else a new one."""
    if given is not None and REQUEST_ID_PATTERN.fullmatch(given):
        return given
    return b"%016x" % random.getrandbits(64)


def header(scope: Scope, name: bytes) -> str:
    """All of a header's values as one (RFC 9110 §5.3), empty without it."""
    return b", ".join(value for given, value in scope["headers"] if given == name).decode("latin-1")


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response written by orjson. Structs are accepted."""
    body = orjson.dumps(content, default=msgspec.to_builtins)
    return Response(body, status, headers, media_type="application/json")


def problem_response(request: Request, found: Problem) -> Response:
    """The problem as Starlette's response."""
    headers = {} if found.retry_after_s is None else {"retry-after": str(found.retry_after_s)}
    body = found.body(request_id_of(request.scope).decode())
    return Response(body, found.status, headers, media_type=problem.CONTENT_TYPE.decode())


async def send_problem(send: Send, found: Problem, request_id: bytes) -> None:
    """The problem as bare ASGI messages, for a `direct` endpoint."""
    body = found.body(request_id.decode())
    headers = problem_headers(found, body, request_id)
    await send({"type": "http.response.start", "status": found.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem_headers(found: Problem, body: bytes, request_id: bytes) -> list[tuple[bytes, bytes]]:
    """The headers of a problem document."""
    headers = [
        (b"content-type", problem.CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id),
    ]
    if found.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % found.retry_after_s))
    return headers


async def read_body(request: Request) -> bytes:
    """The request's JSON body. Raises what `receive_body` raises."""
    return await receive_body(dict(request.scope["headers"]), request.receive)


async def receive_body(
    headers: Mapping[bytes, bytes], receive: Receive, kinds: Sequence[bytes] = (JSON,), bytes_max: int = BODY_BYTES_MAX
) -> bytes:
    """The request's body. A missing content type is taken for the first of `kinds`.

    Raises `ProblemError` 415 for a content type that is none of `kinds`, 413 above `bytes_max`; `ClientGone`.
    """
    kind = headers.get(b"content-type", kinds[0])
    if kind not in kinds and kind.partition(b";")[0].strip().lower() not in kinds:
        raise ProblemError(_unsupported(kind, kinds))
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        return _within_limit(body, bytes_max)
    return await _receive_rest(message, receive, bytes_max)


async def _receive_rest(message: Message, receive: Receive, bytes_max: int) -> bytes:
    body = bytearray()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        _within_limit(body, bytes_max)
        if not message.get("more_body", False):
            return bytes(body)
        message = await receive()
    raise ClientGone


B = TypeVar("B", bytes, bytearray)


def _within_limit(body: B, bytes_max: int) -> B:
    if len(body) > bytes_max:
        detail = f"the body is over {bytes_max} bytes"
        raise ProblemError(Problem(code="too-large", title="Content too large", status=413, detail=detail))
    return body


def _unsupported(kind: bytes, kinds: Sequence[bytes]) -> Problem:
    return Problem(
        code="unsupported-media-type",
        title="Unsupported media type",
        status=415,
        detail=f"content-type is {kind.decode('latin-1')!r}, must be {b' or '.join(kinds).decode()}",
    )


def no_signs() -> list[str]:
    """Nothing to report."""
    return []


def application(
    routes: Sequence[BaseRoute],
    ready: Readiness,
    *,
    degraded: Readiness = no_signs,
    direct: Mapping[tuple[str, str], ASGIApp] = MappingProxyType({}),
) -> Frame:
    """The routes of a service together with /livez, /readyz and /metrics; every error as a problem document.

    `degraded` names what is away although the process can do its main work. For `direct` see `Frame`.
    """

    async def livez(_: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(_: Request) -> Response:
        missing = [*ready(), *(["this process is shutting down"] if frame.stopping else [])]
        answer = {"ready": not missing, "missing": missing, "degraded": degraded()}
        return json_response(answer, 503 if missing else 200)

    async def exposition(_: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem_response(request, error.problem)

    async def on_gone(_: Request, error: Exception) -> Response:
        return Response(status_code=400)  # for the count; nobody reads it

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, "http")
        found = Problem(code=code, title=error.detail, status=error.status_code)
        response = problem_response(request, found)
        if error.status_code == 405:
            response.headers["allow"] = ", ".join(sorted(methods_of(request.scope["path"])))
        return response

    def methods_of(path: str) -> set[str]:
        """All that a path takes; Starlette would name those of one route."""
        found = {method for method, known in direct if known == path}
        for route in app.routes:
            if isinstance(route, Route) and route.path_regex.match(path):
                found |= route.methods or set()
        return found

    async def on_no_connection(request: Request, error: Exception) -> Response:
        logger.warning("the database cannot be reached: {}", str(error).strip(), path=request.url.path)
        return problem_response(request, DATABASE_AWAY)

    async def on_database_failed(request: Request, error: Exception) -> Response:
        # Of a write the answer to its COMMIT may be what was lost.
        logger.warning("the database has not answered: {}", str(error).strip(), path=request.url.path)
        return problem_response(request, READ_FAILED if request.method in READING else WRITE_UNKNOWN)

    async def on_error(request: Request, error: Exception) -> Response:
        logger.opt(exception=error).error("unhandled error", path=request.url.path)
        return problem_response(request, problem.INTERNAL)

    app = Starlette(
        routes=[*routes, Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", exposition)],
        exception_handlers={
            ProblemError: on_problem,
            ClientGone: on_gone,
            HTTPException: on_http,
            psycopg.OperationalError: on_database_failed,
            PoolTimeout: on_no_connection,
            Exception: on_error,
        },
    )
    app.router.redirect_slashes = False  # a redirect would repeat whatever host the client has named
    frame = Frame(app, direct)
    return frame


class _Server(uvicorn.Server):
    """A uvicorn server that leaves the signals to `serve`, since two of them live in one loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def on_tick(self, counter: int) -> bool:
        # A tick is a tenth of a second.
        if counter % LOOK_EVERY_TICKS == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, HttpProtocol):
                    connection.look(now)
        return await super().on_tick(counter)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise Fatal(f"cannot listen on {host}:{port}: {error.strerror}; who has it? try 'just doctor'") from None
    listener.listen(BACKLOG_CONNECTIONS)
    listener.setblocking(False)
    return listener


async def serve(
    app: Frame,
    http: Http,
    tasks: Sequence[Task] = (),
    open_: Callable[[], Awaitable[None]] | None = None,
    close: Callable[[], Awaitable[None]] | None = None,
    protocol: "Callable[..., HttpProtocol] | None" = None,
) -> None:
    """Serve `app` on both ports, with `tasks` beside it, until SIGTERM or SIGINT; then drain. Each connection is a
    `HttpProtocol`, or what `protocol` makes.

    Order of the end: stop accepting, let requests in flight finish (at most `DRAIN_S`), stop the tasks, `close`.
    Raises `Fatal` when a port is taken.
    """
    listeners = [_listen(http.host, http.port), _listen(http.host, http.admin_port)]
    servers = [
        _Server(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=protocol or HttpProtocol,  # type: ignore[arg-type]  # any callable will do
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                # A client must not choose the address it is known by, and the middleware costs every request.
                proxy_headers=False,
                date_header=False,
                backlog=BACKLOG_CONNECTIONS,
                timeout_graceful_shutdown=DRAIN_S,
            )
        )
        for _ in listeners
    ]
    if open_ is not None:
        await open_()
    for task in tasks:
        task.start()

    def stop() -> None:
        app.stopping = True
        for server in servers:
            server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    # What was built while starting lives as long as the process: the collector need not look at it again. What requests
    # and batches leave is freed by its reference count; looking for cycles every 700 objects cost an order a tenth.
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    logger.info("listening", host=http.host, port=http.port, admin_port=http.admin_port)
    try:
        await asyncio.gather(*(server.serve([listener]) for server, listener in zip(servers, listeners, strict=True)))
    finally:
        await asyncio.gather(*(asyncio.to_thread(task.stop) for task in tasks))
        if close is not None:
            await close()
        logger.info("stopped")


def run(main: Awaitable[None]) -> None:
    """Run a process to its end on uvloop. A `Fatal` ends it with exit code 1 and one line that says why."""
    import uvloop

    async def guarded() -> None:
        await main

    try:
        uvloop.run(guarded())
    except Fatal as error:
        logger.critical(str(error))
        raise SystemExit(1) from None
