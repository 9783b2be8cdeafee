"""A few thousand attacks of a fixed seed on a real stack; and each oracle is shown to find what it is there for."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator, Callable

import pytest

from tests.fuzz import attacks, campaign, stored
from tests.fuzz.__main__ import judged, leaked
from tests.fuzz.attack import Attack
from tests.fuzz.campaign import Held
from tests.fuzz.compare import compare
from tests.fuzz.credentials import Credentials, People
from tests.fuzz.minimise import least
from tests.fuzz.runner import Runner
from tests.fuzz.topics import KEYLESS, KEYS, Poisoned
from tests.fuzz.wire import Connection, Target
from tests.stack import Stack

SEED = 7
ATTACKS = 2_500
COMPARED = 1_500
POISON = 2_000
HOST = "127.0.0.1"
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def order_ids(own_stack: Stack) -> list[str]:
    own_stack.launch_all()
    return campaign.stock(own_stack)


def test_hostile_requests_are_refused_and_leave_nothing_behind(own_stack: Stack, order_ids: list[str]) -> None:
    outcome = asyncio.run(campaign.run(own_stack, order_ids, SEED, quick(ATTACKS), print))
    assert judged(own_stack, outcome, leaks=False) == []
    assert {kind for kind, _ in outcome.counts} >= {attacks.draw(SEED, number).kind for number in quick(ATTACKS)}
    assert len(outcome.accepted) > ATTACKS * 0.1, "some of what is hostile is an order all the same"


def test_an_order_that_should_not_be_stored_is_found(own_stack: Stack, order_ids: list[str]) -> None:
    def wrongs() -> list[str]:
        rows = own_stack.query("order", "SELECT order_id::text FROM orders WHERE order_id <> %s", (order_ids[0],))
        return list(stored.wrongs(own_stack, [row[0] for row in rows], ()))

    own_stack.await_settled(order_ids[0])
    assert wrongs() == [f"order {order_ids[0]} of 'fuzz-00' is stored, but no client was told so or cut off"]
    with own_stack.postgres.connect("order") as owner:
        for customer_id, wrong in (("a b", 2), ("fuzz-00", 1)):
            owner.execute("UPDATE orders SET customer_id = %s WHERE order_id = %s", (customer_id, order_ids[0]))
            owner.commit()
            assert len(wrongs()) == wrong


def test_both_ways_give_the_same_answer(own_stack: Stack, order_ids: list[str]) -> None:
    """In one piece, which may take the fast lane, and in two, which does not."""
    target = campaign.targets(own_stack.ports)
    assert asyncio.run(compare(SEED, quick(COMPARED), target, target)) == []


def test_poison_in_the_real_topics_is_parked_and_other_customers_are_not_affected(
    own_stack: Stack, order_ids: list[str]
) -> None:
    poisoned = Poisoned(own_stack, SEED)
    poisoned.send(POISON)
    order_id = own_stack.place("fuzz-01", ("fuzz-apple", 1))
    assert own_stack.await_settled(order_id)["status"] == "confirmed"
    for service, (parked, roots) in poisoned.await_parked().items():
        assert 0 < roots <= KEYS + KEYLESS < parked, service
    own_stack.await_ready()
    assert own_stack.await_settled(own_stack.place("fuzz-02", ("fuzz-apple", 1)))["status"] == "confirmed"


def quick(count: int) -> list[int]:
    """Attacks without the slow ones."""
    return [number for number in range(count) if attacks.draw(SEED, number).ending != "slow"]


# The oracles, each against a server that does what it must not.


def problem(
    status: int = 404, *, request_id: bytes, document_id: bytes = b"", kind: bytes = b"application/problem+json"
) -> bytes:
    body = b'{"type":"/problems/x","title":"X","status":%d,"request_id":"%b"}' % (status, document_id or request_id)
    head = b"HTTP/1.1 %d X\r\ncontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n"
    return head % (status, kind, len(body), request_id) + body


BAD: dict[str, Callable[[bytes], bytes]] = {
    "status 500": lambda i: problem(500, request_id=i),
    "status 404 in the head": lambda i: problem(request_id=i).replace(b'"status":404', b'"status":405'),
    "x-request-id is None": lambda i: problem(request_id=i).replace(b"x-request-id", b"x-other-id00"),
    "the answer to another request": lambda i: problem(request_id=b"another"),
    "request id": lambda i: problem(request_id=i, document_id=b"another"),
    "a 404 of b'text/plain'": lambda i: problem(request_id=i, kind=b"text/plain"),
    "not a problem document": lambda i: problem(request_id=i).replace(b'"title"', b'"titel"'),
    "with retry-after None": lambda i: problem(503, request_id=i),
    "a 429 with retry-after None": lambda i: problem(429, request_id=i),
    "a 401 with www-authenticate None": lambda i: problem(401, request_id=i),
    "ends within a body": lambda i: problem(request_id=i)[:-1],
    "not a status line": lambda i: b"HTTP/1.1 OK\r\n\r\n",
    "twice": lambda i: problem(request_id=i).replace(b"\r\n\r\n", b"\r\nx-request-id: y\r\n\r\n"),
    "closed without an answer": lambda i: b"",
}


@contextlib.asynccontextmanager
async def answering(write: Callable[[bytes], bytes], heads: list[bytes] | None = None) -> AsyncIterator[Target]:
    """A server that answers one request a connection with what `write` makes of its id. Its head goes to `heads`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        [request_id] = re.findall(rb"x-request-id: (\S+)", head)
        if heads is not None:
            heads.append(head)
        writer.write(write(request_id))
        writer.close()

    listener = await asyncio.start_server(serve, HOST, 0, limit=2**20)
    try:
        yield Target(*listener.sockets[0].getsockname())
    finally:
        listener.close()


def framed(count: int) -> list[int]:
    """The first attacks that two servers have to answer alike, on a connection that stays in use."""
    fit = (number for number in itertools.count() if _is_framed(attacks.draw(SEED, number)))
    return list(itertools.islice(fit, count))


def _is_framed(attack: Attack) -> bool:
    return attack.comparable and attack.ending == "keep" and bool(attack.request_ids) and not attack.head_only


async def findings_of(write: Callable[[bytes], bytes]) -> list[str]:
    async with answering(write) as target:
        runner = Runner({"order-api": target})
        kept: dict[str, Connection] = {}
        for number in framed(20):
            await runner.attack(attacks.draw(SEED, number), kept)
        for connection in kept.values():
            connection.close()
    return [finding.problem for finding in runner.findings]


@pytest.mark.parametrize("fault", BAD)
def test_a_server_that_answers_wrongly_is_found(fault: str) -> None:
    findings = asyncio.run(findings_of(BAD[fault]))
    assert len(findings) == 20
    assert all(fault in finding for finding in findings)


def test_a_server_that_answers_well_has_no_findings() -> None:
    assert asyncio.run(findings_of(lambda i: problem(request_id=i))) == []


@pytest.mark.parametrize("good", [True, False])
def test_a_stranger_whose_order_is_placed_is_found(good: bool) -> None:
    order_id = "01997c00-0000-7000-8000-000000000000"
    body = f'{{"order_id":"{order_id}"}}'.encode()
    head = f"HTTP/1.1 202 X\r\ncontent-type: application/json\r\nlocation: /api/v1/orders/{order_id}\r\n"
    heads: list[bytes] = []

    def place(request_id: bytes) -> bytes:
        return f"{head}content-length: {len(body)}\r\nx-request-id: ".encode() + request_id + b"\r\n\r\n" + body

    class Known(People):
        def __init__(self) -> None:
            """Who they are does not matter."""

        def of(self, number: int) -> Credentials:
            return Credentials(b"authorization: Bearer x\r\n", good)

    async def attack() -> list[str]:
        async with answering(place, heads) as target:
            runner = Runner({"order-api": target}, people=Known())
            kept: dict[str, Connection] = {}
            await runner.attack(attacks.draw(SEED, framed(1)[0]), kept)
            for connection in kept.values():
                connection.close()
        return [finding.problem for finding in runner.findings]

    assert asyncio.run(attack()) == ([] if good else [f"a stranger's orders ['{order_id}'] are placed"])
    assert heads[0].count(b"authorization: Bearer x\r\n") == 1


def test_servers_that_differ_are_found() -> None:
    async def differing() -> list[str]:
        async with (
            answering(lambda i: problem(404, request_id=i)) as left,
            answering(lambda i: problem(409, request_id=i)) as right,
        ):
            findings = await compare(SEED, framed(5), {"order-api": left}, {"order-api": right})
        return [finding.problem for finding in findings]

    assert asyncio.run(differing()) == ["one answers [(404, '/problems/x')], the other [(409, '/problems/x')]"] * 5


def test_leaked_memory_and_descriptors_are_found() -> None:
    before = Held(60 * MIB, 40, 12)
    assert list(leaked({"api": {"before": before, "warm": before, "after": Held(65 * MIB, 42, 12)}})) == []
    grown, open_ = leaked({"api": {"before": before, "warm": before, "after": Held(99 * MIB, 60, 32)}})
    assert grown == "api has grown by 39.0 MiB"
    assert open_ == "api holds 60 descriptors, 40 before"


def test_a_finding_is_minimised() -> None:
    async def shown(sent: bytes) -> bool:
        return b"BUG" in sent and sent.startswith(b"{")

    assert asyncio.run(least(b"{" + b"x" * 500 + b"BUG" + b"y" * 300, shown)) == b"{BUG"


def test_an_attack_can_be_drawn_again() -> None:
    assert [attacks.draw(SEED, number) for number in range(200)] == [attacks.draw(SEED, n) for n in range(200)]
    assert attacks.draw(SEED, 1) != attacks.draw(SEED + 1, 1)
