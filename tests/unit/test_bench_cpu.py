"""What a window counts while processes of the stack end and others take their place."""

import subprocess
import sys

import pytest

from bench.stack import processes
from bench.stack.processes import Running, Window

BURN_S = 0.1
BURNS = f"""
import sys, time
while time.process_time() < {BURN_S}: pass
print(flush=True)
sys.stdin.read()
"""


class Machine:
    """A stack whose processes have used what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pids: dict[str, int], used_s: dict[int, float]) -> None:
        self.running, self.used_s = Running(pids=pids), used_s
        monkeypatch.setattr(processes, "tree_cpu_s", lambda pid: self.used_s.get(pid, 0.0))

    def window(self) -> Window:
        return Window(lambda: self.running)


def test_a_broker_that_was_killed_and_started_again_counts_with_both_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {"kafka-1": 11, "kafka-2": 12}, {11: 40.0, 12: 50.0})
    window = machine.window()
    machine.used_s = {12: 53.0, 13: 4.0}  # the first used 2 s more before it was killed
    machine.running = Running(pids={"kafka-1": 13, "kafka-2": 12}, ended_cpu_s={"kafka-1": 42.0})
    assert window.end().seconds["broker"] == 2 + 4 + 3


def test_an_instance_that_is_started_meanwhile_joins_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {"payment-1": 21}, {21: 7.0})
    window = machine.window()
    machine.used_s = {21: 8.0, 22: 0.5}
    machine.running = Running(pids={"payment-1": 21, "payment-2": 22})
    assert window.end().seconds["payment"] == 1.5


def test_a_process_that_ended_by_itself_keeps_its_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {"payment-1": 21, "inventory-1": 31}, {21: 7.0, 31: 1.0})
    window = machine.window()
    machine.used_s = {31: 3.0}
    machine.running = Running(pids={"inventory-1": 31})
    seconds = window.end().seconds
    assert (seconds["payment"], seconds["inventory"]) == (0, 2)


def test_the_cpu_of_a_killed_child_is_known_from_the_kernel() -> None:
    child = subprocess.Popen([sys.executable, "-c", BURNS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with child:
        assert child.stdout is not None
        child.stdout.readline()

        def kill() -> None:
            child.kill()
            child.wait()

        assert processes.ended_cpu_s(kill) > BURN_S / 2
    assert processes.ended_cpu_s(lambda: None) == 0
