"""The bench gives no result when an order is lost."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from bench import __main__ as bench
from bench.run.plan import QUICK


def test_one_lost_event_makes_the_result_void(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The saga stores a confirmation that never reaches the log: the first load that it belongs to ends the run."""
    monkeypatch.setattr("bench.__main__.QUICK", replace(QUICK, burst_orders=1_000))
    assert bench.main(["--quick", "--planted", "loss", "--out", str(tmp_path)]) == 1
    assert "NO RESULT: 1 of " in (output := capsys.readouterr().out)
    assert "acknowledged orders have no outcome" in output
    assert not list(tmp_path.iterdir()), "no result, no report"
