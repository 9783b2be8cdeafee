"""Three brokers under load: the one that is the active controller is killed and loses its disk, when the others lack
its newest records. Only an order that two brokers have is acknowledged, so none is lost."""

from pathlib import Path

from common.events import ORDERS, READERS
from common.kafka import broker, settings
from tests.chaos.brokers.arena import Arena
from tests.chaos.brokers.faults import CONTROLLER, Fault
from tests.chaos.brokers.run import Run, running

ORDERS_PER_S = 30


def test_a_broker_that_loses_its_disk_loses_no_order(tmp_path: Path) -> None:
    with running(Arena(tmp_path)) as arena:
        assert {topic.replicas for topic in broker.describe(arena.admin, READERS).values()} == {3}
        assert settings.fetch_drift(arena.admin, [ORDERS, settings.OFFSETS]) == []
        run = Run(arena, ORDERS_PER_S)
        run.play([Fault("strand", (CONTROLLER,), 3)])
        assert run.failures == []
        [row] = run.rows
        assert row.brokers.endswith("*"), "it was the active controller"
        assert row.effect.accepted > ORDERS_PER_S, "orders were accepted while it was away"
