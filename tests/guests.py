"""The routes of the OpenAPI documents, for tests that send guests, good and bad, to each of them."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ops.contract.documents import CONTRACTS

NOBODYS: Final = "019ab7a2-0000-7000-8000-000000000000"
"""The id of an order that nobody has placed."""
METHODS: Final = ("get", "post", "put", "delete")


class Route(NamedTuple):
    """An operation, with an example of its request. `accepts` are scopes; without any it is public."""

    id: str
    service: str
    method: str
    path: str
    accepts: tuple[str, ...]
    body: Any
    media_type: str


def routes(*services: str) -> Iterator[Route]:
    """All operations of these services' documents; the body is its first example."""
    for service in services:
        document = CONTRACTS[service].document()
        for path, methods in document["paths"].items():
            for method in METHODS:
                if method not in methods:
                    continue
                operation = methods[method]
                [*schemes] = operation["security"]
                content: dict[str, Any] = operation.get("requestBody", {}).get("content", {})
                media_type = next(iter(content), "")
                bodies = [each["value"] for kind in content.values() for each in kind["examples"].values()]
                accepts = tuple(schemes[0]["bearer"]) if schemes else ()
                yield Route(
                    operation["operationId"],
                    service,
                    method.upper(),
                    path,
                    accepts,
                    (*bodies, None)[0],
                    media_type,
                )


def named(route: Route) -> str:
    return f"{route.service} {route.id}"
