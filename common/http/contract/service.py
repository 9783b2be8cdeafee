"""A service's contract: its operations, and the routes and pages that are made from them."""

import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.http.caching import Handler, conditional
from common.http.contract import pages
from common.http.contract.document import make_document, problem_types
from common.http.contract.operation import Deprecation, Operation
from common.http.contract.process import DOCS, DOCS_FILE, HEALTH, OPENAPI, PAGES, PROBLEM, PROBLEMS
from common.http.problem import CONTENT_TYPE, ProblemType

Endpoint: TypeAlias = "Handler | ASGIApp"

OF_EVERY_SERVICE: Final = """
Every answer has an `X-Request-Id`. Every error is a problem document (RFC 9457) whose `type` is the address of a page.

Every path with GET takes HEAD, and every path takes OPTIONS, which is answered with `Allow`. Fields that are not known
are refused in requests; a client must ignore those that it does not know in answers, since new ones may come. A change
that breaks clients gets a new path (`/api/v2`); the old one then says `Deprecation` and `Sunset`.
"""


class OperationRoute(Route):
    """The route of an operation. `application` takes no other, so that there is none without a rule."""

    def __init__(self, operation: Operation, endpoint: Any) -> None:
        super().__init__(operation.path, endpoint, methods=[operation.method])
        self.operation = operation


class Contract:
    """What a service offers over HTTP."""

    def __init__(self, title: str, description: str, operations: Sequence[Operation], version: str = "1") -> None:
        self.title = title
        self.version = version
        self.description = f"{description}\n{OF_EVERY_SERVICE}"
        self.operations = (*operations, *PAGES, *HEALTH)
        """All of them; those of the service come first, in the order in which paths are matched."""
        self.own = tuple(operations)

    @cached_property
    def problems(self) -> dict[str, ProblemType]:
        """All types of problems that it answers with, by their codes and in the order of their statuses."""
        types = sorted(problem_types(self.operations), key=lambda kind: (kind.status, kind.code))
        return {kind.code: kind for kind in types}

    def document(self) -> dict[str, Any]:
        """The OpenAPI document, as JSON's own types."""
        document: dict[str, Any] = orjson.loads(self._document)
        return document

    @cached_property
    def _document(self) -> bytes:
        return orjson.dumps(make_document(self.title, self.version, self.description, self.operations))

    def routes(
        self, endpoints: Mapping[Operation, Endpoint], elsewhere: Collection[Operation] = ()
    ) -> list[OperationRoute]:
        """A route for each operation, but those that are answered `elsewhere` and those of `common.http.app`. An
        endpoint is a function of a request, or bare ASGI.

        Raises `AssertionError` if an operation has no endpoint or an endpoint has no operation.
        """
        own = {
            **endpoints,
            OPENAPI: self._answer_document,
            DOCS: pages.docs,
            DOCS_FILE: pages.docs_file,
            PROBLEMS: pages.problem_index(self),
            PROBLEM: pages.problem_page(self),
        }
        missing = {operation.id for operation in (*self.own, *PAGES)} ^ {o.id for o in (*own, *elsewhere)}
        assert not missing, f"operations without an endpoint, or endpoints without an operation: {sorted(missing)}"
        return [
            OperationRoute(operation, endpoint_of(operation, own[operation]))
            for operation in (*self.own, *PAGES)
            if operation not in elsewhere
        ]

    def direct(self, endpoints: Mapping[Operation, ASGIApp]) -> dict[Operation, ASGIApp]:
        """The endpoints that are answered past router and middleware."""
        return {operation: endpoint_of(operation, app) for operation, app in endpoints.items()}

    async def _answer_document(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")


def endpoint_of(operation: Operation, endpoint: Endpoint) -> Any:
    """The endpoint with what its declaration promises beyond what it does by itself.

    Raises `AssertionError` if it is to be conditional and is bare ASGI, and so has to keep that promise itself.
    """
    if operation.conditional:
        assert inspect.isroutine(endpoint), f"{operation.id} is bare ASGI: it cannot be conditional"
        endpoint = conditional(endpoint)
    if operation.deprecation is not None:
        app: Any = request_response(endpoint) if inspect.isroutine(endpoint) else endpoint
        return _Deprecated(app, operation.deprecation)
    return endpoint


class _Deprecated:
    """Adds the headers of a deprecated operation to its answers, but not to problems."""

    def __init__(self, app: ASGIApp, deprecation: Deprecation) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in deprecation.headers()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start" and (b"content-type", CONTENT_TYPE) not in message["headers"]:
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, send_marked)
