"""A run as one self-contained HTML file. It loads nothing, and follows the reader's light or dark mode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.measure.result import Run
from bench.report.tables import tables_of
from bench.stack.processes import GROUPS

TEMPLATE: Final = Path(__file__).with_name("report.html")
_DATA: Final = "/*DATA*/null"


def page(run: Run, history: Sequence[Run]) -> str:
    """The report of a run. `history` are earlier runs of the same plan, oldest first."""
    previous = history[-1] if history else None
    content = {
        "run": run,
        "previous": previous,
        "tables": tables_of(run, previous),
        "history": [
            {"cpu_to_echo": r.cpu_to_echo, "confirmed_per_s": r.confirmed.confirmed_per_s} for r in (*history, run)
        ],
        "groups": GROUPS,
    }
    # A "</script>" in a string would end the script.
    return TEMPLATE.read_text().replace(_DATA, msgspec.json.encode(content).decode().replace("</", "<\\/"))
