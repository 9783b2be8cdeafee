"""The limits of a process: which requests are over one, and what they are answered.

- An address has a bucket for its requests, one for health checks, and one for credentials that are not valid. A
  signature is checked only if the first and the last have a token, so guessing is limited, and so is it to have ever
  further tokens of one principal verified. Credentials that have been checked before are not affected by either.
- A principal has a bucket by its scopes. A request with many orders takes a token for each.

Each process has buckets of its own: with two instances, a client may send up to twice as much. Only a 429 has the
RateLimit headers. Elsewhere they would have to be written for every order, for clients that do not read them.

References: RFC 6585 §4 (429), draft-ietf-httpapi-ratelimit-headers-10 (RateLimit-Policy, RateLimit).
"""

from math import ceil
from typing import Final

from loguru import logger
from prometheus_client import Counter

from common.auth.principal import Principal
from common.http.limits.buckets import Buckets, Rate
from common.http.limits.settings import RequestLimits
from common.http.problem import RATE_LIMITED, Problem
from common.http.repeats import Repeats

_limited: Final = Counter(
    "tandem_http_limited_total",
    "Requests, and orders of many in one, refused because of a limit of requests.",
    ["limit"],
)


CHECKS: Final = Rate(per_s=100, burst=200)
"""Health checks of an address on the public port. A load balancer sends one in a second or two."""


class Limit:
    """One limit with its buckets and its count. Without a rate it refuses nothing."""

    def __init__(self, name: str, rate: Rate | None, over: str) -> None:
        """`over` begins the detail of a refusal; `{}` stands for the key."""
        self.name = name
        self._over = over
        self._buckets = None if rate is None else Buckets(rate)
        self._count = _limited.labels(name)
        self._repeats = Repeats()

    def refusal(self, key: str, now: float) -> Problem | None:
        """Take a token, or refuse."""
        if self._buckets is None or not (wait_s := self._buckets.take(key, now)):
            return None
        return self._refused(key, now, wait_s, 1)

    def refusal_if_empty(self, key: str, now: float) -> Problem | None:
        """Refuse if there is no token; take none."""
        if self._buckets is None or self._buckets.left(key, now):
            return None
        return self._refused(key, now, 1 / self._buckets.rate.per_s, 1)

    def is_reached(self, key: str, now: float) -> bool:
        """Whether there is no token; take none, and refuse nothing."""
        return self._buckets is not None and not self._buckets.left(key, now)

    def take_up_to(self, key: str, now: float, tokens: int) -> tuple[int, Problem | None]:
        """Take as many tokens as there are. Returns how many, and the refusal for the rest."""
        if self._buckets is None or (taken := self._buckets.take_up_to(key, now, tokens)) == tokens:
            return tokens, None
        wait_s = min(tokens - taken, self._buckets.rate.burst) / self._buckets.rate.per_s
        return taken, self._refused(key, now, wait_s, tokens - taken)

    def take(self, key: str, now: float, tokens: int = 1) -> None:
        """Take so many tokens, or those there are."""
        if self._buckets is not None:
            self._buckets.take_up_to(key, now, tokens)

    def _refused(self, key: str, now: float, wait_s: float, requests: int) -> Problem:
        assert self._buckets is not None
        self._count.inc(requests)
        if times := self._repeats.count(now):
            logger.warning("over the limit of requests: {} refused", times, limit=self.name, last=key)
        rate, retry_after_s = self._buckets.rate, max(1, ceil(wait_s))
        left = self._buckets.left(key, now)
        return Problem(
            RATE_LIMITED,
            f"{self._over.format(repr(key[:64]))} over {rate.per_s} a second ({rate.burst} at once)",
            retry_after_s=retry_after_s,
            headers=(
                ("ratelimit-policy", f'"{self.name}";q={rate.burst};w={max(1, round(rate.window_s))}'),
                ("ratelimit", f'"{self.name}";r={left};t={retry_after_s}'),
            ),
        )


class Limiter:
    """The limits of one process. A source is what `common.http.limits.sources` makes of an address. All times are
    seconds of one monotonic clock."""

    def __init__(self, limits: RequestLimits) -> None:
        self.proxies = limits.trusted_proxies
        self._addresses = Limit("address", limits.address, "requests from the address {}:")
        self._checks = Limit("checks", CHECKS, "health checks from the address {}:")
        self._failures = Limit("failures", limits.failures, "credentials from the address {} that are not valid:")
        self._customers = Limit("customer", limits.customer, "requests of the customer {}:")
        self._machines = Limit("machine", limits.machine, "requests of {}:")
        self._everybody = Limit("everybody", None, "")  # with AUTH=off nobody is told from others

    def refusal_of_source(self, source: str, now: float) -> Problem | None:
        """Count a request from this source, or refuse it."""
        return self._addresses.refusal(source, now)

    def refusal_to_check(self, source: str, now: float) -> Problem | None:
        """Count a health check from this source, or refuse it."""
        return self._checks.refusal(source, now)

    def charge_source(self, source: str, now: float, requests: int) -> None:
        """Count so many further requests for an answer that was as dear. The next ones wait for it."""
        self._addresses.take(source, now, requests)

    def refusal_to_verify(self, source: str, now: float) -> Problem | None:
        """Refuse to check credentials, after too many from this source that were not valid."""
        return self._failures.refusal_if_empty(source, now)

    def failed(self, source: str, now: float) -> None:
        """Count credentials from this source that are not valid."""
        self._failures.take(source, now)

    def verified(self, principal: Principal, source: str, now: float) -> None:
        """Count credentials from this source that were not known, and are good. Those of a principal that is at its
        limit were verified in vain, and count like those that are not valid: somebody may have any number of tokens."""
        if self._limit_of(principal).is_reached(principal.subject, now):
            self.failed(source, now)

    def refusal_of_principal(self, principal: Principal, now: float) -> Problem | None:
        """Count a request of this principal, or refuse it."""
        return self._limit_of(principal).refusal(principal.subject, now)

    def lines_of_principal(self, principal: Principal, now: float, lines: int) -> tuple[int, Problem | None]:
        """Count the lines of a request with many orders, as far as they go. Returns how many, and the refusal for the
        rest."""
        return self._limit_of(principal).take_up_to(principal.subject, now, lines)

    def charge(self, principal: Principal, now: float, requests: int) -> None:
        """Count so many further requests for an answer that was as dear. The next ones wait for it."""
        self._limit_of(principal).take(principal.subject, now, requests)

    def _limit_of(self, principal: Principal) -> Limit:
        if not principal.is_machine:
            return self._customers
        return self._everybody if principal.kind == "anonymous" else self._machines
