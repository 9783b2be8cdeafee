"""Mutated events in this process, from fixed seeds; and a decoder that lets something through is caught."""

import pytest

from common import codec
from common.consume import records
from common.consume.records import Received, Record
from common.errors import Poison
from tests.fuzz import events

RECORDS = 20_000


def test_mutated_events_are_refused_or_read_back_unchanged() -> None:
    outcome = events.run(1, range(RECORDS))
    assert not outcome.wrong
    accepted = sum(count for (_, verdict), count in outcome.counts.items() if verdict == "accepted")
    assert RECORDS * 0.05 < accepted < RECORDS * 0.5, "mutations should break most events, and not all"


def test_an_exception_other_than_poison_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as msgspec's UnicodeDecodeError, which is no DecodeError."""
    genuine = records.decode

    def careless(record: Record) -> Received:
        try:
            return genuine(record)
        except Poison as poison:
            if isinstance(poison.__cause__, UnicodeDecodeError):
                raise poison.__cause__ from None
            raise

    monkeypatch.setattr(events, "decode", careless)
    assert any("UnicodeDecodeError" in wrong for wrong in events.run(1, range(2_000)).wrong.values())


def test_an_event_that_changes_when_it_is_read_again_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lossy(event: object) -> bytes:
        return codec.encode(event).replace(b'"quantity":2', b'"quantity":3')

    monkeypatch.setattr(events, "encode", lossy)
    assert any("another event" in wrong for wrong in events.run(1, range(2_000)).wrong.values())
