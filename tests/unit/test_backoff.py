from itertools import islice

import pytest

from common.backoff import FIRST_S, delays_s


def drawn(monkeypatch: pytest.MonkeyPatch, draw: float, cap_s: float, count: int) -> list[float]:
    monkeypatch.setattr("common.backoff.random.random", lambda: draw)
    return list(islice(delays_s(cap_s), count))


def test_the_bound_doubles_until_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 0.5, 8 * FIRST_S, 6) == [n * FIRST_S for n in (0.5, 1, 2, 4, 4, 4)]


def test_the_jitter_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 0.0, 5.0, 4) == [0, 0, 0, 0]
    assert drawn(monkeypatch, 0.999, 5.0, 4)[3] > 7.9 * FIRST_S


def test_a_cap_below_the_first_bound_holds_too(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, 0.5, FIRST_S / 2, 2) == [FIRST_S / 4] * 2


def test_the_series_goes_on_for_ever() -> None:
    assert all(0 <= delay < 5 for delay in islice(delays_s(), 10_000))
