"""The services answer as their OpenAPI documents say, to requests that the documents allow and to those they forbid.

schemathesis makes the requests from each document: its examples, the bounds of every field, random ones, and sequences
along the links, such as from the answer to an order to the order. See `tests/fuzz/schemathesis.toml`.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import httpx
import msgspec
import pytest

from common.auth.principal import SCOPES
from dev.settings import ROOT
from ops.contract.documents import CONTRACTS
from tests.console import RunningConsole
from tests.fuzz.documented import CUSTOMER, PRODUCT, faults_of_request, undocumented_fields
from tests.guarded import Guarded
from tests.stack import Stack

NAMES: Final = {"order": "order-api", "payment": "payment", "inventory": "inventory"}
CONFIG: Final = Path(__file__).with_name("schemathesis.toml")
RUN_S: Final = 300
ALL: Final = " ".join(SCOPES)


@pytest.fixture(scope="module", autouse=True)
def examples(stack: Stack) -> None:
    """What the examples of the documents name."""
    for product_id, price in ((PRODUCT, 1_999), ("sku-0002", 1_000)):
        stack.product(product_id, price=price, pieces=10**6)
        stack.await_orderable(product_id)
    stack.account(CUSTOMER, 10**9)


@pytest.mark.parametrize("service", NAMES)
def test_every_example_of_the_document_is_taken(guarded: Guarded, service: str) -> None:
    for operation in CONTRACTS[service].operations:
        if operation.body is None:
            continue
        path = operation.path.format(customer_id=CUSTOMER, product_id=PRODUCT)
        for summary, example in operation.body.examples.items():
            for media_type in operation.body.media_types:
                answer = guarded.http.request(
                    operation.method,
                    guarded.url(NAMES[service], path),
                    content=msgspec.json.encode(example),
                    headers={
                        "content-type": media_type,
                        "authorization": f"Bearer {guarded.issuer.token(CUSTOMER, ALL)}",
                    },
                )
                statuses = {each.status for each in operation.answers if each.status < 300}
                assert answer.status_code in statuses, f"{operation.id}, {summary}: {answer.text}"


@pytest.mark.parametrize("service", NAMES)
def test_a_service_answers_as_its_document_says(guarded: Guarded, service: str, tmp_path: Path) -> None:
    credentials = f"Authorization: Bearer {guarded.key('fuzzer', *SCOPES)}"
    answers_as_documented(guarded.url(NAMES[service]), service, tmp_path, "--header", credentials)


def test_the_console_answers_as_its_document_says(guarded: Guarded, tmp_path: Path) -> None:
    """What reads, and ends: other requests act on the stack, and the stream goes on for ever."""
    console = RunningConsole(guarded.stack)
    console.variables |= guarded.settings("order-api") | {"HTTP_PORT": str(console.port)}
    console.start()
    try:
        credentials = f"Authorization: Bearer {guarded.key('fuzzer', *SCOPES)}"
        chosen = ("--include-method", "GET", "--exclude-path", "/api/stream", "--max-examples", "5")
        answers_as_documented(console.url, "console", tmp_path, "--header", credentials, *chosen)
    finally:
        console.stop()


def answers_as_documented(url: str, service: str, directory: Path, *chosen: str) -> None:
    """Run schemathesis. Fails with its report."""
    document = f"{url}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run", document, *chosen]
    # In a folder of its own: it leaves a cache there.
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, timeout=RUN_S)
    print(done.stdout[-3_000:])
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert httpx.get(document, trust_env=False).json() == CONTRACTS[service].document()


@pytest.mark.parametrize(
    ("query", "headers", "faults"),
    [
        ("customer_id=c&limit=100", {"If-None-Match": "x"}, []),
        ("customer_id=c&limit=101", {}, [("limit is '101'", 422)]),
        ("customer_id=c&limit=2.5", {}, [("limit is '2.5'", 422)]),
        ("customer_id=a%20b&status=lost", {}, [("customer_id is 'a b'", 422), ("status is 'lost'", 422)]),
        ("limit=1", {}, [("customer_id is there 0 times", 422)]),
        ("customer_id=c&customer_id=d", {}, [("customer_id is there 2 times", 422)]),
    ],
)
def test_a_request_that_the_document_forbids_is_known(
    query: str, headers: dict[str, str], faults: list[tuple[str, int]]
) -> None:
    schema = SimpleNamespace(raw_schema=CONTRACTS["order"].document())
    case: Any = SimpleNamespace(method="GET", operation=SimpleNamespace(path="/api/v1/orders", schema=schema))
    request = SimpleNamespace(url=f"http://localhost/api/v1/orders?{query}", headers=headers, body=None)
    response: Any = SimpleNamespace(request=request)
    assert list(faults_of_request(response, case)) == faults


def test_a_field_that_no_schema_has_is_found() -> None:
    document: dict[str, Any] = CONTRACTS["order"].document()
    page = {"$ref": "#/components/schemas/OrderPage"}
    order_view = {"order_id": "x", "timeline": [{"event": "e", "extra": 1}], "surprise": 1}
    found = list(undocumented_fields({"orders": [order_view], "next_cursor": None, "more": 1}, page, document))
    assert sorted(found) == ["extra", "more", "surprise"]
