"""A short run: a few faults of one seed, always the same, and the proof at the end."""

from itertools import islice
from math import inf
from pathlib import Path

from tests.chaos.arena import Arena
from tests.chaos.run import Run
from tests.chaos.schedule import deal

SEED = 7
ONLY = ("kill-payment", "cut-kafka", "two-owners", "deadlock")
ORDERS_PER_S = 40


def test_a_few_faults_under_load_lose_nothing(tmp_path: Path) -> None:
    arena = Arena(tmp_path / "arena")
    try:
        arena.start()
        run = Run(arena, SEED, ORDERS_PER_S)
        run.play(islice(deal(SEED, ONLY), len(ONLY)), seconds=inf, orders=0)
        run.report.show()
        assert run.report.failures == []
        assert len(run.book.accepted) > 100
    finally:
        arena.stop()
        arena.unmount()
