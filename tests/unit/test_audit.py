"""The entries of the audit, and what `just audit` prints of them."""

import argparse
import math
from datetime import UTC, datetime

import msgspec
import pytest
from starlette.requests import Request

from common.audit import entry as audit
from common.audit.entry import TEXT_CHARS_MAX, Author, Entry, user_author
from common.audit.table import row_of
from common.auth.principal import ANYONE, Principal
from common.http.once import author_of
from inventory.app import entry_of
from inventory.operations import ProductRequest
from inventory.store import CREATED, Put
from ops.audit import limit, line_of, moment
from ops.dead_letters.acts import NAMED_MAX
from ops.dead_letters.acts import entry_of as entry_of_act
from ops.dead_letters.parked import RecordId

CUP = ProductRequest("Cup", 1_999, "EUR", True)


def test_a_command_names_the_person_and_who_ran_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "user", lambda: "bea")
    assert user_author() == Author("bea", "user") == user_author("bea")
    assert user_author("ann") == Author("ann (run by bea)", "user")


def test_a_request_names_its_principal_and_the_credential() -> None:
    bea = Principal("bea", frozenset({"merchant"}), math.inf, "key", "tdm-7")
    for principal, credential in ((bea, "tdm-7"), (ANYONE, None)):
        state = {"principal": principal, "request_id": b"r-1"}
        request = Request({"type": "http", "headers": [], "state": state})
        assert author_of(request) == Author(principal.subject, principal.kind, "r-1", credential)


def test_a_product_is_created_changed_or_priced_anew() -> None:
    created = entry_of("sku-1", CUP, CREATED)
    assert (created.act, created.target, created.result) == ("create-product", "product sku-1", "created")
    assert created.detail == msgspec.to_builtins(CUP)
    assert entry_of("sku-1", CUP, Put(1_999, "EUR")).act == "change-product"
    dearer = entry_of("sku-1", CUP, Put(1_500, "EUR"))
    assert (dearer.act, dearer.result) == ("change-price", "was 1500 EUR")
    assert entry_of("sku-1", CUP, Put(1_999, "USD")).act == "change-price"


def test_an_act_on_many_events_names_the_first_of_them() -> None:
    chosen = argparse.Namespace(command="redrive", why="mended")
    records = [RecordId("orders", 3, offset) for offset in range(NAMED_MAX + 2)]
    entry = entry_of_act(chosen, records, "12 events marked")
    assert entry.target.startswith("orders/3@0, orders/3@1, ")
    assert entry.target.endswith(f"orders/3@{NAMED_MAX - 1} and 2 more")
    assert entry_of_act(chosen, records[:1], "") == Entry("redrive", "orders/3@0", {"why": "mended"}, "")


def test_a_text_that_is_too_long_is_cut_and_not_refused() -> None:
    long = "x" * (TEXT_CHARS_MAX + 1)
    row = row_of(Author("ann", "token", "r-1", "t-7"), Entry("deposit", long, {"why": "☃"}, long))
    assert row == ("ann", "token", "r-1", "t-7", "deposit", long[:-1], '{"why":"☃"}', long[:-1])


def test_a_line_shows_why_or_that_no_reason_was_given() -> None:
    entry = {
        "service": "payment", "acted_at": "2026-11-29T05:00:00.000Z", "entry_id": 1, "principal": "ann", "kind": "user",
        "request_id": None, "act": "redrive", "target": "orders/3@17", "detail": {"why": "mended"}, "result": "1 event",
    }  # fmt: skip
    assert line_of(entry)[-2:] == ("-", "mended")
    assert line_of({**entry, "detail": {}})[-1] == "-"


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert moment("2026-11-29T14:00") == datetime(2026, 11, 29, 14, tzinfo=UTC) == moment("2026-11-29T15:00+01:00")
    with pytest.raises(argparse.ArgumentTypeError, match="'noon' must be like 2026-11-29"):
        moment("noon")


@pytest.mark.parametrize("text", ["0", "-1", "x", "1000001", "1.5"])
def test_a_wrong_limit_is_refused_with_the_bounds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 to 1000000"):
        limit(text)
