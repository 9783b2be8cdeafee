"""A short form of `just alerts-drill`, where Prometheus and Alertmanager are installed.

The alerts about speed are left out: a machine on which orders are slow raises them, and rightly.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.observe import MISSING, PROGRAMS, binary
from tests.alerts.drill import OF_SPEED, Drill
from tests.chaos.disk import Disk
from tests.stack import Stack

pytestmark = pytest.mark.skipif(
    any(binary(name) is None for name in PROGRAMS),
    reason=f"THE ALERTS WERE NOT TRIED: Prometheus or Alertmanager is not installed: {MISSING}",
)


@pytest.fixture(scope="module")
def drill(own_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    own_stack.launch_all()
    drill = Drill(own_stack, tmp_path_factory.mktemp("observe"))
    with drill.running():
        yield drill


def test_every_dashboard_and_rule_has_data_and_promtool_finds_no_fault_in_the_metrics(drill: Drill) -> None:
    with drill.watched():
        drill.await_data()
        assert not set(drill.receiver.fired()) - OF_SPEED
    served = [instance.get("/metrics").text for instance in drill.stack.instances.values()]
    for text in (*served, drill.console.http.get("/metrics").text):
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True)
        assert checked.returncode == 0


def test_a_killed_consumer_raises_exactly_its_alert(drill: Drill) -> None:
    verdict = drill.play("consumer-killed", Disk(Path("/nowhere")))
    assert verdict.apart_from_speed == {verdict.expected}, verdict
