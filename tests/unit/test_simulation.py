"""The simulation gives what theory says where theory knows, and the model can be wrong."""

import random
from statistics import mean
from typing import Final

import pytest
from msgspec.structs import replace

from bench.model.charts import Series, line_chart
from bench.model.costs import Calibration, Load, compare, fit, least_squares
from bench.model.engine import Cores, Lock, Process, Simulation
from bench.model.sizes import ALONE_PER_S, FILLED, size, table
from bench.model.tandem import GROUPS, LINGER_S, Costs, Shape, run
from bench.simulate import check, highest, main
from bench.stack.machine import Machine
from common.consume.timetable import SLOT_S
from dev.settings import ROOT

SERVICE_S: Final = 0.01
NOTHING: Final = dict.fromkeys(GROUPS, 0.0)
FREE: Final = Costs(idle=NOTHING, batch=NOTHING, request=NOTHING, order=NOTHING)
COSTS: Final = Costs(
    idle=dict.fromkeys(GROUPS, 0.02),
    batch={"api": 0, "saga": 0.0012, "payment": 0.001, "inventory": 0.001, "broker": 0, "postgres": 0.0015},
    request={"api": 0.0001, "saga": 0.00002, "payment": 0.00002, "inventory": 0.00002, "broker": 0.0001, "postgres": 0},
    order=dict.fromkeys(GROUPS, 0.00003),
    hop_s=0.0008,
)
MACHINE: Final = Machine(
    cpu="a model", cores=2, memory_bytes=1, kernel="", python="", versions={}, revision="", changed=False
)


def mean_wait_s(cores: int, load: float, *, poisson: bool, jobs: int = 40_000) -> float:
    """How long jobs of `SERVICE_S` wait on average at a share of what the cores can do."""
    simulation = Simulation()
    machine = Cores(simulation, cores, quantum_s=1.0)
    draw = random.Random(7)
    waits = []

    def job() -> Process:
        came_s = simulation.now_s
        yield machine.use(SERVICE_S)
        waits.append(simulation.now_s - came_s - SERVICE_S)

    def arrivals() -> Process:
        interval_s = SERVICE_S / (load * cores)
        for _ in range(jobs):
            simulation.spawn(job())
            yield simulation.sleep(draw.expovariate(1 / interval_s) if poisson else interval_s)

    simulation.spawn(arrivals())
    simulation.run(1e9)
    assert len(waits) == jobs
    return mean(waits)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_core_waits_as_a_queue_of_poisson_arrivals_and_equal_jobs(load: float) -> None:
    """M/D/1: the mean wait is rho / (2 (1 - rho)) times the service."""
    assert mean_wait_s(1, load, poisson=True) == pytest.approx(load / (2 * (1 - load)) * SERVICE_S, rel=0.06)


def test_even_arrivals_below_what_the_cores_can_do_never_wait() -> None:
    """D/D/c."""
    assert mean_wait_s(2, 0.95, poisson=False) == pytest.approx(0, abs=1e-9)


def test_tasks_share_a_core_in_turns() -> None:
    simulation = Simulation()
    machine = Cores(simulation, 1, quantum_s=0.001)
    ended = {}

    def task(name: str, cpu_s: float) -> Process:
        yield machine.use(cpu_s)
        ended[name] = simulation.now_s

    simulation.spawn(task("long", 0.010))
    simulation.spawn(task("short", 0.001))
    simulation.run(1)
    assert ended == {"short": pytest.approx(0.002), "long": pytest.approx(0.011)}
    assert machine.busy_s == pytest.approx(0.011)


def test_a_lock_is_given_in_the_order_of_asking() -> None:
    simulation, lock, order = Simulation(), Lock(), []

    def holder(name: int) -> Process:
        yield lock.acquire()
        order.append((name, simulation.now_s))
        yield simulation.sleep(1)
        lock.release()

    for name in range(3):
        simulation.spawn(holder(name))
    simulation.run(10)
    assert order == [(0, 0), (1, 1), (2, 2)]


def test_without_costs_an_order_waits_for_the_timetable_alone() -> None:
    """Many orders: half of the linger, half a slot for payment and inventory, then the saga's phase."""
    outcome = run(Shape(rate=1_000), FREE)
    assert outcome.settled_share == pytest.approx(1, abs=0.02)
    assert outcome.total_cpu_us == 0
    assert outcome.accept_p50 <= LINGER_S * 1e3
    assert 18 + 22.5 - 6 < outcome.settle_p50 < 18 + 22.5 + 6


def test_a_consumer_begins_one_batch_in_a_slot_at_most() -> None:
    outcome = run(Shape(rate=3_000, instances=3), COSTS)
    for group in ("payment", "inventory", "saga"):
        assert outcome.work[group]["batch"] <= 3 / SLOT_S + 1
        assert outcome.work[group]["order"] == pytest.approx(3_000, rel=0.05)


def test_more_than_the_cores_can_do_is_not_held() -> None:
    """An order takes 180 us and more of the two cores, whatever else."""
    assert run(Shape(rate=20_000, seconds=1), COSTS).settled_share < 0.9
    rate = highest(Shape(rate=1, seconds=1), COSTS)
    assert 3_000 < rate < 2 / 180e-6


def test_instances_that_lock_the_same_rows_do_not_add_up() -> None:
    """Of a batch, PostgreSQL's part and a third of the consumer's are done one after the other: 0.36 ms an order."""
    costs = replace(COSTS, order=NOTHING | {"inventory": 0.0004, "postgres": 0.0016})
    shape = Shape(rate=4_500, seconds=2, instances=6, cores=8, apart=True)
    assert run(shape, costs).settled_share > 0.97
    assert run(replace(shape, is_split=False), costs).settled_share < 0.8


def loads_of(costs: Costs, shapes: list[tuple[float, int]]) -> list[Load]:
    loads = []
    for rate, instances in shapes:
        outcome = run(Shape(rate=rate, apis=instances, instances=instances, is_split=False, seconds=3), costs)
        loads.append(
            Load(
                rate=rate, apis=instances, instances=instances, cpu_us=outcome.cpu_us | {"generator": 0.0},
                accept_p50=outcome.accept_p50, settle_p50=outcome.settle_p50, others_share=0.0,
            )
        )  # fmt: skip
    return loads


@pytest.fixture(scope="module")
def fitted() -> tuple[Calibration, Costs]:
    """Loads of a machine that is as the model says, and what the fit makes of them."""
    calibration = Calibration(
        at="2026-11-29", machine=MACHINE, echo_us=20, cores=2, partitions=6, idle=COSTS.idle,
        calibration=loads_of(COSTS, [(300, 1), (700, 1), (1_500, 1), (700, 3)]),
        checks=loads_of(COSTS, [(1_000, 1), (1_000, 2)]),
    )  # fmt: skip
    return calibration, fit(calibration)


def test_the_fit_finds_costs_that_explain_the_loads(fitted: tuple[Calibration, Costs]) -> None:
    calibration, costs = fitted
    assert costs.hop_s == pytest.approx(COSTS.hop_s, abs=0.0004)
    for load in (*calibration.calibration, *calibration.checks):
        comparison = compare(load, calibration, costs)
        assert abs(comparison.cpu_error) < 0.03
        assert comparison.holds


def test_the_check_fails_for_a_machine_that_the_model_does_not_describe(
    fitted: tuple[Calibration, Costs], capsys: pytest.CaptureFixture[str]
) -> None:
    calibration, costs = fitted
    assert check(calibration, costs)
    slower = [replace(load, settle_p50=load.settle_p50 * 1.25) for load in calibration.checks]
    assert not check(replace(calibration, calibration=[], checks=slower), costs)
    assert "0 of 2 checked loads are within 15%" in capsys.readouterr().out
    dearer = replace(calibration.checks[0], cpu_us={group: us * 0.8 for group, us in COSTS.order.items()})
    assert not check(replace(calibration, calibration=[], checks=[dearer]), costs)


def test_the_model_is_checked_against_the_loads_of_another_run(
    fitted: tuple[Calibration, Costs], capsys: pytest.CaptureFixture[str]
) -> None:
    calibration, costs = fitted
    again = replace(calibration, at="2026-11-30", checks=calibration.checks[:1])
    assert check(again, costs, "measured again")
    printed = capsys.readouterr().out
    assert "Measured on 2026-11-30" in printed
    assert "| 300/s, 1 of each | measured again |" in printed
    with pytest.raises(SystemExit):
        main(["--against", "none.json"])
    assert "none.json does not exist; 'just simulate measure --file none.json' makes it" in capsys.readouterr().err


def test_the_page_shows_the_sizes_that_the_code_gives() -> None:
    assert table() in (ROOT / "docs/SCALING.md").read_text()
    small, large = size(1_000), size(1_000_000)
    assert small.cost_of_a_million > large.cost_of_a_million
    assert large.sagas * ALONE_PER_S["saga"] * FILLED >= 1_000_000
    assert large.partitions >= large.sagas


def test_least_squares_has_no_negative_factor() -> None:
    assert least_squares([[1, 2], [2, 1], [3, 3]], [8, 7, 15]) == pytest.approx([2, 3])
    assert least_squares([[1, 1], [1, 2], [1, 3]], [3, 2, 1])[1] == 0


def test_a_chart_has_its_lines_dots_and_labels() -> None:
    lines, dots = Series("1 <of> each", [(100, 5), (1_000, 9)], "#000"), Series("", [(500, 7)], "#000", dots=True)
    svg = line_chart("CPU & time", "orders/s", "us", [lines, dots])
    assert svg.count("<polyline") == svg.count("<circle") == 1
    assert "CPU &amp; time" in svg
    assert "1 &lt;of&gt; each" in svg
