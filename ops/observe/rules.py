"""The rules of Prometheus and Alertmanager as data, made from the SLOs and the symptoms.

A drill divides all windows by a factor, so that what takes hours takes minutes.
"""

from dataclasses import dataclass
from typing import Any, Final

from ops.observe.slos import BURNS, DAY, EVENTS_MIN, HOUR, MINUTE, SLOS, WINDOWS_S, Burn, Slo
from ops.observe.symptoms import INHIBITIONS, SYMPTOMS, Alert

WEBHOOK: Final = "http://127.0.0.1:9096/"
RUNBOOKS: Final = "docs/OPERATIONS.md"
SLO_SECTION: Final = "orders-are-slow-or-refused"

Rule = dict[str, Any]


def duration(seconds: float) -> str:
    """A time as Prometheus writes it, in the largest unit that is whole."""
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", 1)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:.0f}ms" if seconds else "0s"


@dataclass(frozen=True)
class Pace:
    """How much shorter than real all times are, and the least that a symptom and a cause last, in seconds. A cause is
    found within `cause_min_s` of a sample of the console, which no factor shortens, so symptoms wait for longer."""

    factor: float = 1
    symptom_min_s: float = 0
    cause_min_s: float = 0

    def span(self, seconds: float) -> str:
        return duration(seconds / self.factor)

    def lasting(self, seconds: float, *, cause: bool) -> str:
        return duration(max(seconds / self.factor, self.cause_min_s if cause else self.symptom_min_s))


REAL: Final = Pace()


def rules(pace: Pace = REAL) -> dict[str, Any]:
    """The content of Prometheus' rule file."""
    recorded = [_recorded(slo, window, pace) for slo in SLOS for window in WINDOWS_S]
    burning = [_burning(slo, burn, pace) for slo in SLOS for burn in BURNS]
    groups = {"tandem-slo": [*recorded, *burning], "tandem-symptoms": [_symptom(alert, pace) for alert in SYMPTOMS]}
    return {"groups": [{"name": name, "rules": rules} for name, rules in groups.items()]}


def _recorded(slo: Slo, window_s: int, pace: Pace) -> Rule:
    window = pace.span(window_s)
    expr = f"({slo.bad}) / ({slo.all})".replace("$w", window)
    return {"record": recorded_name(window_s), "expr": expr, "labels": {"slo": slo.name}}


def recorded_name(window_s: int) -> str:
    """The metric that has the share of bad events over a window."""
    return f"tandem:slo_errors:ratio_{duration(window_s)}"


def _burning(slo: Slo, burn: Burn, pace: Pace) -> Rule:
    limit = f"{burn.factor * slo.budget:.6g}"
    long, short = (f'{recorded_name(window)}{{slo="{slo.name}"}} > {limit}' for window in (burn.long_s, burn.short_s))
    enough = f"({slo.bad}) * {burn.long_s / pace.factor:g} >= {EVENTS_MIN}".replace("$w", pace.span(burn.long_s))
    return {
        "alert": slo.alert,
        "expr": f"{long} and {short} and on() ({enough})",
        "for": pace.lasting(burn.for_s, cause=False),
        "labels": {"severity": burn.severity, "window": duration(burn.long_s)},
        "annotations": {
            "summary": f"broken: {slo.summary}; the budget burns {burn.factor:g} times as fast as allowed",
            "runbook": f"{RUNBOOKS}#{SLO_SECTION}",
        },
    }


def _symptom(alert: Alert, pace: Pace) -> Rule:
    lasting = pace.lasting(alert.for_s, cause=alert.cause)
    return {
        "alert": alert.name,
        "expr": alert.expr.replace("$age", _age(alert, pace)),
        **({} if lasting == "0s" else {"for": lasting}),
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {"summary": alert.summary, "runbook": f"{RUNBOOKS}#{alert.section}"},
    }


def _age(alert: Alert, pace: Pace) -> str:
    """The age as a window if it is one, else in seconds."""
    return pace.span(alert.age_s) if "[$age]" in alert.expr else f"{alert.age_s / pace.factor:g}"


def routes(webhook: str = WEBHOOK, pace: Pace = REAL) -> dict[str, Any]:
    """The content of Alertmanager's file. `webhook` receives every alert until a receiver of one's own is there."""
    by_severity = {"page": HOUR, "ticket": DAY}
    return {
        "route": {
            "receiver": "webhook",
            "group_by": ["alertname", "service", "database"],
            "group_wait": pace.lasting(30, cause=True),
            "group_interval": pace.lasting(5 * MINUTE, cause=True),
            "routes": [
                {"matchers": [f'severity="{severity}"'], "receiver": "webhook", "repeat_interval": duration(again)}
                for severity, again in by_severity.items()
            ],
        },
        "receivers": [{"name": "webhook", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
        "inhibit_rules": [
            {
                "source_matchers": [_any_of(causes)],
                "target_matchers": [_any_of(symptoms)],
                **({"equal": list(equal)} if equal else {}),
            }
            for causes, symptoms, equal in INHIBITIONS
        ]
        + [
            {
                "source_matchers": ['severity="page"', _any_of(tuple(slo.alert for slo in SLOS))],
                "target_matchers": ['severity="ticket"'],
                "equal": ["alertname"],
            }
        ],
    }


def _any_of(names: tuple[str, ...]) -> str:
    return f'alertname=~"{"|".join(names)}"'
