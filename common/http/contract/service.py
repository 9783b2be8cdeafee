"""A service's contract: its operations, and the routes and pages that are made from them."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, TypeAlias

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from common.http.caching import Handler, conditional
from common.http.contract import pages
from common.http.contract.document import make_document, problem_types
from common.http.contract.operation import Operation
from common.http.contract.process import DOCS, DOCS_FILE, HEALTH, OPENAPI, PAGES, PROBLEM, PROBLEMS
from common.http.problem import ProblemType

Endpoint: TypeAlias = "Handler | ASGIApp"

OF_EVERY_SERVICE: Final = """
Every answer has an `X-Request-Id`. Every error is a problem document (RFC 9457) whose `type` is the address of a page.

Every path with GET takes HEAD, and every path takes OPTIONS, which is answered with `Allow`. Fields that are not known
are refused in requests; a client must ignore those that it does not know in answers, since new ones may come. A change
that breaks clients gets a new path (`/api/v2`); the old one then says `Deprecation` and `Sunset`.
"""


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

    def routes(self, endpoints: Mapping[Operation, Endpoint], elsewhere: Collection[Operation] = ()) -> list[Route]:
        """A route for each operation, but those that are answered `elsewhere` and those of `common.http.app`. An
        endpoint is a function of a request, or bare ASGI.

        Raises `AssertionError` if an operation has no endpoint or an endpoint has no operation, or if one promises what
        only `endpoint_of` keeps.
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
        promising = [
            operation.id for operation in elsewhere if operation.conditional or operation.deprecation is not None
        ]
        assert not promising, f"conditional or deprecated, and answered elsewhere: {promising}"
        return [
            Route(operation.path, endpoint_of(operation, own[operation]), methods=[operation.method])
            for operation in (*self.own, *PAGES)
            if operation not in elsewhere
        ]

    async def _answer_document(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")


def endpoint_of(operation: Operation, endpoint: Endpoint) -> Callable[..., Any]:
    """The endpoint with what its declaration promises beyond what it does by itself.

    Raises `AssertionError` if it is bare ASGI, and so has to keep such a promise itself.
    """
    if not operation.conditional and operation.deprecation is None:
        return endpoint
    assert inspect.isroutine(endpoint), f"{operation.id} is bare ASGI: it can be neither conditional nor deprecated"
    handler: Handler = endpoint
    if operation.conditional:
        handler = conditional(handler)
    if operation.deprecation is not None:
        handler = _deprecated(handler, operation.deprecation.headers())
    return handler


def _deprecated(handler: Handler, headers: Sequence[tuple[str, str]]) -> Handler:
    async def respond(request: Request) -> Response:
        response = await handler(request)
        for name, value in headers:
            response.headers.append(name, value)
        return response

    return respond
