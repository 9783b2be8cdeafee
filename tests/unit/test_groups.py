"""What coordinators say of the groups, byte by byte."""

import struct
from types import SimpleNamespace
from typing import Any

import pytest

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka import wire
from common.kafka.broker import Partition
from common.kafka.wire import Fields, text
from ops.groups import DESCRIBE, FIND_COORDINATOR, NO_SUCH_GROUP, Member, coordinators, described, members

HEAD = b"\x00" + struct.pack(">i", 0)
ASSIGNED = b"\x02" + bytes(16) + text("orders") + b"\x03" + struct.pack(">ii", 0, 5) + b"\x00\x00"
NONE = b"\x01\x00"
MEMBER = (
    text("id") + b"\x00\x00" + struct.pack(">i", 3) + text("payment-1") + text("/127.0.0.1")
    + b"\x02" + text("orders") + b"\x00" + ASSIGNED + NONE + b"\x00"
)  # fmt: skip


def group(name: str, *its: bytes, error: int = 0) -> bytes:
    head = struct.pack(">h", error) + b"\x00" + text(name) + text("Stable") + bytes(8) + text("range")
    return head + bytes([len(its) + 1]) + b"".join(its) + struct.pack(">i", 0) + b"\x00"


def coordinator(name: str, port: int, error: int = 0) -> bytes:
    at = text(name) + struct.pack(">i", 1) + text("127.0.0.1") + struct.pack(">ih", port, error)
    return at + b"\x00\x00"


def test_each_coordinator_is_asked_once_for_its_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bytes]] = []

    def request(_: Brokers, host: str, port: int, key: int, version: int, body: bytes) -> bytes:
        if port == 0:
            raise Transient("it was killed")
        if (key, version) == FIND_COORDINATOR:
            return HEAD + b"\x04" + coordinator("payment", 2) + coordinator("inventory", 3) + coordinator("new", 2)
        assert (key, version) == DESCRIBE
        asked.append((port, body))
        if port == 3:
            return HEAD + b"\x02" + group("inventory")
        return HEAD + b"\x03" + group("payment", MEMBER) + group("new", error=NO_SUCH_GROUP)

    monkeypatch.setattr(wire, "request", request)
    nodes: Any = [SimpleNamespace(host="127.0.0.1", port=port) for port in (0, 1)]
    found = members(Brokers("127.0.0.1:1"), nodes, ["payment", "inventory", "new"])
    orders = [Partition("orders", 0), Partition("orders", 5)]
    assert found == {"payment": [Member("payment-1", "/127.0.0.1", orders)], "inventory": [], "new": []}
    assert asked == [(2, b"\x00\x03\x08payment\x04new\x00\x00"), (3, b"\x00\x02\x0ainventory\x00\x00")]


def test_an_error_of_a_coordinator_is_transient() -> None:
    with pytest.raises(Transient, match="group payment has no coordinator: error 15"):
        coordinators(Fields(b"\x02" + coordinator("payment", 0, error=15)))
    with pytest.raises(Transient, match="group payment cannot be described: error 14"):
        described(Fields(b"\x02" + group("payment", error=14)))
    with pytest.raises(Transient, match="does not say who is in its groups"):
        described(Fields(b"\x02" + group("payment", MEMBER)[:-20]))
    with pytest.raises(Transient, match="no broker is known"):
        members(Brokers("127.0.0.1:1"), [], ["payment"])


def test_no_broker_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def request(*_: object) -> bytes:
        raise Transient("it was killed")

    monkeypatch.setattr(wire, "request", request)
    nodes: Any = [SimpleNamespace(host="127.0.0.1", port=1)]
    with pytest.raises(Transient, match="it was killed"):
        members(Brokers("127.0.0.1:1"), nodes, ["payment"])
