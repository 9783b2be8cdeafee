"""Whether a difference is real: a confidence interval on the ratio of paired measurements.

A and B are measured in turn, so that what the machine does to one it does to its neighbour. The logarithms of the
ratios B / A are averaged, with Student's t for their spread. 99 %, because some thirty figures are compared at once.
"""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Final

from msgspec import Struct

CONFIDENCE: Final = 0.99
# Two-sided 99 % quantiles of Student's t by degrees of freedom; beyond the table its last, which is on the safe side.
_T: Final = (
    63.657, 9.925, 5.841, 4.604, 4.032, 3.707, 3.499, 3.355, 3.250, 3.169, 3.106, 3.055, 3.012, 2.977, 2.947, 2.921,
    2.898, 2.878, 2.861, 2.845,
)  # fmt: skip


class Change(Struct, frozen=True, kw_only=True):
    """How a figure changed from A to B, over all pairs. Ratios."""

    before: float
    after: float
    """Geometric means."""
    ratio: float
    low: float
    high: float
    pairs: int

    @property
    def real(self) -> bool:
        """Whether the interval excludes no change."""
        return self.low > 1 or self.high < 1


def compare(before: Sequence[float], after: Sequence[float]) -> Change:
    """The change over pairs. Needs at least two, all above zero; raises `ValueError`."""
    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"pairs are needed, at least two: {len(before)} and {len(after)} figures")
    if min(*before, *after) <= 0:
        raise ValueError("a ratio needs figures above zero")
    ratios = [math.log(b / a) for a, b in zip(before, after, strict=True)]
    middle = mean(ratios)
    reach = _T[min(len(ratios) - 1, len(_T)) - 1] * stdev(ratios) / math.sqrt(len(ratios))
    return Change(
        before=math.exp(mean(map(math.log, before))),
        after=math.exp(mean(map(math.log, after))),
        ratio=math.exp(middle),
        low=math.exp(middle - reach),
        high=math.exp(middle + reach),
        pairs=len(ratios),
    )
