"""A circuit breaker: it keeps requests from a gateway that is down, and tells that from a card that is slow. No I/O, no
clock.

    closed ──failures of several customers in a row──▶ open ──after a rest──▶ half open: one probe
       ▲                                                ▲                          │
       └─────────────────────── success ────────────────┴───────── failure ────────┘

Reference: M. Nygard, Release It!, "Circuit Breaker".
"""

from typing import Final

CUSTOMERS_MIN: Final = 5
"""Failures of so many different customers without a success between them mean that the gateway is down."""
REST_S: Final = 1.0


class Breaker:
    def __init__(self) -> None:
        self._failed: set[str] = set()
        self._probe_at_s: float | None = None
        """When the next probe may go out; None while it is closed."""
        self._opened_at_s = 0.0
        self._open_before_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._probe_at_s is not None

    def open_s(self, at_s: float) -> float:
        """The seconds for which it has been open, in all."""
        return self._open_before_s + (at_s - self._opened_at_s if self.is_open else 0.0)

    def admits(self, at_s: float) -> bool:
        """Whether a request may go out now. While it is open that is one probe at a time."""
        if self._probe_at_s is None:
            return True
        if at_s < self._probe_at_s:
            return False
        self._probe_at_s = at_s + REST_S
        return True

    def succeeded(self, at_s: float) -> None:
        self._open_before_s = self.open_s(at_s)
        self._failed.clear()
        self._probe_at_s = None

    def failed(self, customer_id: str, at_s: float) -> None:
        self._failed.add(customer_id)
        if len(self._failed) >= CUSTOMERS_MIN:
            if not self.is_open:
                self._opened_at_s = at_s
            self._probe_at_s = at_s + REST_S
