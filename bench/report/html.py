"""A run as one self-contained HTML file: no request leaves it, it follows the reader's light or dark."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.measure.result import Run
from bench.stack.processes import GROUPS

TEMPLATE: Final = Path(__file__).with_name("report.html")
_PLACE: Final = "/*DATA*/null"


def page(run: Run, history: Sequence[Run]) -> str:
    """The report of a run. `history` are earlier runs of the same plan, oldest first."""
    course = [
        {
            "at": r.at,
            "revision": r.machine.revision,
            "cpu": r.confirmed.total_cpu_us,
            "ratio": r.ratios.cpu_of_confirmed_to_echo,
            "per_s": r.confirmed.confirmed_per_s,
        }
        for r in (*history, run)
    ]
    content = {"run": run, "previous": history[-1] if history else None, "history": course, "groups": GROUPS}
    # A "</script>" in a string would end the script.
    data = msgspec.json.encode(content).decode().replace("</", "<\\/")
    return TEMPLATE.read_text().replace(_PLACE, data)
