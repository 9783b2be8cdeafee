"""The costs of the model, from loads that were measured, and how well the model then predicts other loads.

A load says how much CPU each group of processes took in a second. The model says how many batches, requests and orders
that group had in the same second. Over loads of several rates, the costs are the least squares of one by the other,
none of them below zero. Relative errors count, so that a load of few orders says as much as one of many.
"""

from collections.abc import Sequence
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bench.model.tandem import GROUPS, Costs, Outcome, Shape, run
from bench.stack.machine import Machine

ERROR_MAX: Final = 0.15
ROUNDS: Final = 3
"""Costs decide how long batches take, and with it how many there are: the fit is repeated."""
HOP_S_MAX: Final = 0.008
HOP_STEPS: Final = 6
SPREADS: Final = (0.0, 0.5, 1.0, 1.5)
"""The candidates for `Costs.spread`."""
SIMULATED_S: Final = 3.0
KINDS: Final = ("batch", "request", "order")


class Load(Struct, frozen=True, kw_only=True):
    """A load that was measured: CPU in µs an order, latencies in ms."""

    rate: float
    apis: int
    instances: int
    cpu_us: dict[str, float]
    """By group, with the generator's."""
    accept_p50: float
    settle_p50: float
    others_share: float
    """Of the machine's CPU, what other processes took: above 0.05 the figures are those of a busy machine."""
    held: bool = True

    @property
    def total_cpu_us(self) -> float:
        return sum(self.cpu_us[group] for group in GROUPS)

    @property
    def name(self) -> str:
        return f"{self.rate:,.0f}/s, {self.instances} of each"


class Calibration(Struct, frozen=True, kw_only=True):
    """What was measured in one run, on one machine."""

    at: str
    machine: Machine
    echo_us: float
    """CPU of a request to a bare uvicorn in the same run."""
    cores: int
    partitions: int
    idle: dict[str, float]
    """Share of a core that each group takes when nothing happens, with one instance of each."""
    calibration: list[Load]
    checks: list[Load]
    """Loads of other rates and instances, which the fit does not see."""


class Comparison(Struct, frozen=True, kw_only=True):
    """A load beside what the model says of it."""

    load: Load
    model: Outcome

    @property
    def cpu_error(self) -> float:
        return self.model.total_cpu_us / self.load.total_cpu_us - 1

    @property
    def settle_error(self) -> float:
        return self.model.settle_p50 / self.load.settle_p50 - 1

    @property
    def holds(self) -> bool:
        return abs(self.cpu_error) <= ERROR_MAX and abs(self.settle_error) <= ERROR_MAX


def read(path: Path) -> Calibration:
    return msgspec.json.decode(path.read_bytes(), type=Calibration)


def shape_of(load: Load, calibration: Calibration) -> Shape:
    """The shape in which the bench measured a load."""
    return Shape(
        rate=load.rate, apis=load.apis, instances=load.instances, partitions=calibration.partitions,
        cores=calibration.cores, is_split=False, seconds=SIMULATED_S,
    )  # fmt: skip


def compare(load: Load, calibration: Calibration, costs: Costs) -> Comparison:
    return Comparison(load=load, model=run(shape_of(load, calibration), costs))


def fit(calibration: Calibration) -> Costs:
    """The costs that explain the loads of the calibration."""
    loads = calibration.calibration
    zero = dict.fromkeys(GROUPS, 0.0)
    costs = Costs(idle=calibration.idle, batch=zero, request=zero, order=zero)
    for _ in range(ROUNDS):
        outcomes = [run(shape_of(load, calibration), costs) for load in loads]
        costs = refit(costs, loads, outcomes)
    candidates = (with_hop(replace(costs, spread=spread), calibration) for spread in SPREADS)
    best, _ = min(candidates, key=itemgetter(1))
    return best


def with_hop(costs: Costs, calibration: Calibration) -> tuple[Costs, float]:
    """The costs, with the time a message takes that explains best when orders settle: the longer, the later. With them,
    how far the model is still off in that, over the loads of the calibration: the sum of the squares."""
    least_s, most_s = 0.0, HOP_S_MAX
    errors: list[float] = []
    for _ in range(HOP_STEPS):
        costs = replace(costs, hop_s=(least_s + most_s) / 2)
        errors = [compare(load, calibration, costs).settle_error for load in calibration.calibration]
        least_s, most_s = (costs.hop_s, most_s) if sum(errors) < 0 else (least_s, costs.hop_s)
    return costs, sum(error**2 for error in errors)


def refit(costs: Costs, loads: Sequence[Load], outcomes: Sequence[Outcome]) -> Costs:
    """The costs that explain the CPU of these loads, given the work that the model says they had."""
    fitted: dict[str, dict[str, float]] = {kind: {} for kind in KINDS}
    for group in GROUPS:
        rows, seconds = [], []
        for load, outcome in zip(loads, outcomes, strict=True):
            idle = costs.idle[group] * (1 if group in ("broker", "postgres") else load.instances)
            rows.append([outcome.work[group][kind] for kind in KINDS])
            seconds.append(max(1e-6, load.cpu_us[group] * load.rate / 1e6 - idle))
        for kind, cost in zip(KINDS, least_squares(rows, seconds), strict=True):
            fitted[kind][group] = cost
    generator = sum(load.cpu_us.get("generator", 0.0) for load in loads) / len(loads) / 1e6
    return replace(costs, **fitted, generator=generator)


def least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Factors by which the columns add up to the values, as nearly as can be, relative to each value; none below zero.

    There are few columns, so all sets of columns that may have a factor are tried.
    """
    width = len(rows[0])
    scaled = [[x / value for x in row] for row, value in zip(rows, values, strict=True)]
    best, least = [0.0] * width, float(len(values))
    for size in range(1, width + 1):
        for chosen in combinations(range(width), size):
            factors = _solve(
                [[sum(row[i] * row[j] for row in scaled) for j in chosen] for i in chosen],
                [sum(row[i] for row in scaled) for i in chosen],
            )
            if factors is None or min(factors) < 0:
                continue
            misfit = sum((sum(f * row[i] for f, i in zip(factors, chosen, strict=True)) - 1) ** 2 for row in scaled)
            if misfit < least - 1e-9:
                least, best = misfit, [0.0] * width
                for factor, i in zip(factors, chosen, strict=True):
                    best[i] = factor
    return best


def _solve(matrix: list[list[float]], values: list[float]) -> list[float] | None:
    """Gaussian elimination; None if there is no one solution."""
    size = len(values)
    rows = [[*row, value] for row, value in zip(matrix, values, strict=True)]
    for i in range(size):
        pivot = max(range(i, size), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) < 1e-9 * (abs(matrix[i][i]) or 1.0):
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(size):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[i], strict=True)]
    return [rows[i][-1] / rows[i][i] for i in range(size)]
