"""The shapes of load that Locust runs, and when such a run has passed. Locust is not imported: it patches sockets."""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

P95_MAX_MS: Final = 50.0
ERRORS_MAX: Final = 0.001

LOAD_USERS: Final = 10
STRESS_USERS: Final = 100
SPIKE_USERS: Final = 50
SPIKE_FACTOR: Final = 10


class Target(NamedTuple):
    """How many users there should be, and how many may start or stop a second to get there."""

    users: int
    per_s: float


def load(at_s: float) -> Target | None:
    """10 users for a minute."""
    return Target(LOAD_USERS, LOAD_USERS) if at_s < 60 else None


def stress(at_s: float) -> Target | None:
    """0 to 100 users in a minute, then half a minute with all of them."""
    if at_s < 60:
        return Target(max(1, round(STRESS_USERS * at_s / 60)), STRESS_USERS)
    return Target(STRESS_USERS, STRESS_USERS) if at_s < 90 else None


def spike(at_s: float) -> Target | None:
    """0, 50 and 0 users; then 50, at once ten times as many, and back."""
    for until_s, users in (
        (10, 1),
        (30, SPIKE_USERS),
        (40, 1),
        (55, SPIKE_USERS),
        (70, SPIKE_USERS * SPIKE_FACTOR),
        (85, SPIKE_USERS),
        (95, 1),
    ):
        if at_s < until_s:
            return Target(users, SPIKE_USERS * SPIKE_FACTOR)
    return None


def soak(at_s: float) -> Target | None:
    """10 users until Locust's --run-time has passed."""
    return Target(LOAD_USERS, LOAD_USERS)


SHAPES: Final[Mapping[str, Callable[[float], Target | None]]] = {
    "load": load,
    "stress": stress,
    "spike": spike,
    "soak": soak,
}


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
