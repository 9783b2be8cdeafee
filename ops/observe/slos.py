"""What the system promises its users, and when a breach pages: three SLOs, each with alerts by how fast it burns its
error budget.

A budget is what may go wrong in 30 days. At 14.4 times the allowed rate it lasts two days: page within minutes; at 6
times, five days: page; at the allowed rate itself: look. The short window ends an alert soon after the trouble ends.
Reference: The Site Reliability Workbook, "Alerting on SLOs", multiwindow, multi-burn-rate alerts.
"""

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

MINUTE: Final = 60
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR
EVENTS_MIN: Final = 10
"""With fewer bad events in the long window nobody is called: one slow order at night is no trend."""

Severity = Literal["page", "ticket"]
"""`page` wakes somebody, `ticket` waits for the next working day."""


@dataclass(frozen=True)
class Slo:
    """`bad` and `all` are rates in PromQL over a window `$w`; `objective` is the share that must not be bad."""

    name: str
    alert: str
    objective: float
    bad: str
    all: str
    summary: str

    @property
    def budget(self) -> float:
        return 1 - self.objective


class Burn(NamedTuple):
    """An alert when the budget burns this many times as fast as allowed, over both windows (seconds)."""

    factor: float
    long_s: int
    short_s: int
    for_s: int
    """An alert that names the cause shall come first and silence this one. A trend over days needs longer to be one."""
    severity: Severity


def _slower(histogram: str, bound: str) -> str:
    return f'sum(rate({histogram}_count[$w])) - sum(rate({histogram}_bucket{{le="{bound}"}}[$w]))'


_PLACED: Final = 'tandem_http_requests_total{method="POST",route="/api/v1/orders"}'
_FAILED: Final = 'tandem_http_requests_total{method="POST",route=~"/api/v1/orders(/batch)?",status=~"5.."}'
_LINES: Final = "tandem_order_batch_lines_total"
_FAILED_LINES: Final = 'tandem_order_batch_lines_total{status=~"5.."}'

SLOS: Final = (
    Slo(
        "accept",
        "TandemAcceptErrors",
        0.999,
        bad=f"(sum(rate({_FAILED}[$w])) or vector(0)) + (sum(rate({_FAILED_LINES}[$w])) or vector(0))",
        all=f"sum(rate({_PLACED}[$w])) + (sum(rate({_LINES}[$w])) or vector(0))",
        summary="99.9 % of orders get an answer other than 5xx",
    ),
    Slo(
        "accept-latency",
        "TandemAcceptSlow",
        0.99,
        bad=_slower("tandem_order_accept_seconds", "0.05"),
        all="sum(rate(tandem_order_accept_seconds_count[$w]))",
        summary="99 % of orders are in the log within 50 ms",
    ),
    Slo(
        "settle-latency",
        "TandemSettleSlow",
        0.99,
        bad=_slower("tandem_order_settle_seconds", "2.0"),
        all="sum(rate(tandem_order_settle_seconds_count[$w]))",
        summary="99 % of orders are settled within 2 s",
    ),
)
BURNS: Final = (
    Burn(14.4, HOUR, 5 * MINUTE, 2 * MINUTE, "page"),
    Burn(6, 6 * HOUR, 30 * MINUTE, 15 * MINUTE, "page"),
    Burn(1, 3 * DAY, 6 * HOUR, 2 * HOUR, "ticket"),
)
WINDOWS_S: Final = sorted({window for burn in BURNS for window in (burn.long_s, burn.short_s)})
