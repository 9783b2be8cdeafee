"""The shapes of load that Locust runs, and when such a run has passed. Locust is not imported: it patches sockets."""

import math
from typing import Final

P95_MAX_MS: Final = 50.0
ERRORS_MAX: Final = 0.001

SHAPES: Final[dict[str, tuple[tuple[float, int, int], ...]]] = {
    "load": ((60, 10, 10),),
    "stress": ((60, 1, 100), (90, 100, 100)),
    "spike": ((10, 1, 1), (30, 50, 50), (40, 1, 1), (55, 50, 50), (70, 500, 500), (85, 50, 50), (95, 1, 1)),
    "soak": ((math.inf, 10, 10),),
}
"""Steps: the second at which a step ends, and the users at its beginning and at its end; they change evenly."""


def users_at(shape: str, at_s: float) -> tuple[int, float] | None:
    """How many users there should be, and how many may start or stop a second to get there; None at the end."""
    began_s = 0.0
    for until_s, first, last in SHAPES[shape]:
        if at_s < until_s:
            users = first if first == last else round(first + (last - first) * (at_s - began_s) / (until_s - began_s))
            return users, max(last for _, _, last in SHAPES[shape])
        began_s = until_s
    return None


def verdict(requests: int, failures: int, p95_ms: float) -> str:
    """Why a run has failed; empty when it has passed."""
    if not requests:
        return "no request was answered"
    reasons = []
    if p95_ms >= P95_MAX_MS:
        reasons.append(f"p95 is {p95_ms:.0f} ms, must be below {P95_MAX_MS:.0f} ms")
    if failures >= ERRORS_MAX * requests:
        share = failures / requests
        reasons.append(f"{failures} of {requests} requests failed ({share:.2%}), must be below {ERRORS_MAX:.1%}")
    return "; ".join(reasons)
