"""An order api that asks for tokens, as `just up` starts it: what the commands print lets people and machines in."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import httpx
import pytest

from common.auth.sources import FILE_CHECK_EVERY_S
from dev.environment import child
from dev.native.stack import NativeStack
from dev.settings import HOST, ROOT, Settings, free_ports, own_auth
from tests.examples.test_shop import SHOP, told
from tests.guarded import beside
from tests.stack import API, Stack
from tests.waiting import PATIENCE_S, eventually

FIRST_ORDER: Final = ("cust-000001", "sku-0001")
"""The customer and the product of the order that `just up` prints."""
READERS: Final = 4
ROTATIONS: Final = 5


class Closed:
    """An order api with AUTH=on beside the shared one, with an issuer and API keys of its own."""

    def __init__(self, stack: Stack, home: Path) -> None:
        [self.port] = free_ports(1)
        self.settings = Settings(home=home, order_api_port=self.port)
        own = own_auth(self.settings.auth)
        self._variables = child(stack.variables | own)
        self.run("people")
        self.own = {"HTTP_PORT": str(self.port), "AUTH": "on", **own}
        self.http = httpx.Client(base_url=f"http://{HOST}:{self.port}{API}", timeout=15, trust_env=False)

    def run(self, module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a tool that has to succeed."""
        command = [sys.executable, "-m", f"ops.{module}", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self._variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def token(self, *arguments: str) -> str:
        return self.run("people.token", *arguments).stdout.strip()

    def status(self, credentials: str, path: str = "/orders?customer_id=cust-nobody") -> int:
        """How a request with these credentials is answered."""
        return self.http.get(path, headers={"authorization": f"Bearer {credentials}"}).status_code


@pytest.fixture(scope="module")
def closed(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Closed]:
    closed = Closed(stack, tmp_path_factory.mktemp("home"))
    with closed.http, beside(stack, {"order-api": closed.own}):
        yield closed


@pytest.fixture(scope="module")
def first_order(stack: Stack, closed: Closed) -> None:
    """What the demo data has."""
    customer, product = FIRST_ORDER
    stack.account(customer, 10**9)
    stack.product(product, pieces=10**6)
    body = {"customer_id": customer, "product_id": product, "quantity": 1}
    headers = {"authorization": f"Bearer {closed.token('customer', customer)}"}
    eventually(
        lambda: closed.http.post("/orders", json=body, headers=headers).status_code == 202, "the product is orderable"
    )


def test_the_lines_that_up_prints_place_an_order(
    closed: Closed, first_order: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = NativeStack(closed.settings)
    monkeypatch.setattr(stack, "run_tool", closed.run)
    stack.print_addresses()
    printed = capsys.readouterr().out
    [link] = re.findall(r"^  http://127\.0\.0\.1:8080/#token=(\S+)$", printed, re.MULTILINE)
    assert closed.status(link) == 200
    script = printed[printed.index("  TOKEN=") :]
    placed = subprocess.run(["sh", "-c", script], env=child(), capture_output=True, text=True)
    assert placed.stdout.startswith("HTTP/1.1 202 Accepted"), placed.stdout + placed.stderr
    without = subprocess.run(["sh", "-c", script[script.index("\n") :]], env=child(), capture_output=True, text=True)
    assert without.stdout.startswith("HTTP/1.1 401 Unauthorized"), without.stdout + without.stderr


@pytest.mark.parametrize(
    "program", [[sys.executable, str(SHOP / "shop.py")], [str(SHOP / "shop.sh")]], ids=["py", "sh"]
)
def test_the_shops_order_with_a_token(closed: Closed, first_order: None, program: list[str]) -> None:
    command = [*program, f"http://{HOST}:{closed.port}", *FIRST_ORDER]
    assert told(*command, token=closed.token("customer", FIRST_ORDER[0]))[0].startswith("placed ")
    refused = subprocess.run(command, env=child(), capture_output=True, text=True)
    assert (refused.returncode != 0, "send Authorization: Bearer" in refused.stderr) == (True, True), refused.stderr


def test_the_typescript_shop_orders_with_a_token(closed: Closed, first_order: None, node: str) -> None:
    test_the_shops_order_with_a_token(closed, first_order, [node, str(SHOP / "shop.ts")])


def test_a_revoked_key_is_refused_and_the_others_are_not(closed: Closed) -> None:
    assert FILE_CHECK_EVERY_S <= 1, "'just keys revoke' says that a key is refused within a second"
    leaked, other = (closed.run("people.keys", "create", "merchant", f"shop-{n}").stdout.strip() for n in range(2))
    for key in (leaked, other):
        eventually(lambda k=key: closed.status(k) == 200, "the key is known")  # type: ignore[misc]
    closed.run("people.keys", "revoke", leaked)
    eventually(lambda: closed.status(leaked) == 401, "the key is refused")
    assert closed.status(other) == 200


class Reader(threading.Thread):
    """Asks with the newest token, again and again, and notes each answer that is not 200."""

    def __init__(self, closed: Closed, tokens: Sequence[str]) -> None:
        super().__init__()
        self.answered = 0
        self.refused: list[int] = []
        self.stopping = threading.Event()
        self._closed = closed
        self._tokens = tokens

    def run(self) -> None:
        while not self.stopping.is_set():
            for token in (self._tokens[0], self._tokens[-1]):
                status = self._closed.status(token)
                self.answered += 1
                if status != 200:
                    self.refused.append(status)


def test_no_request_is_refused_while_the_issuers_key_is_rotated(closed: Closed) -> None:
    tokens = [closed.token("auditor", "reader")]
    readers = [Reader(closed, tokens) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(ROTATIONS):
            closed.run("people.keys", "rotate-issuer")
            tokens.append(closed.token("auditor", "reader"))
            before = [reader.answered for reader in readers]
            eventually(
                lambda b=before: all(r.answered > n + 1 for r, n in zip(readers, b, strict=True)),  # type: ignore[misc]
                "all readers have used the new token",
            )
    finally:
        for reader in readers:
            reader.stopping.set()
            reader.join(PATIENCE_S)
    assert [reader.refused for reader in readers] == [[]] * READERS
    closed.run("people.keys", "rotate-issuer", "--at-once")
    for token in tokens:
        eventually(lambda t=token: closed.status(t) == 401, "the older tokens have ended")  # type: ignore[misc]
