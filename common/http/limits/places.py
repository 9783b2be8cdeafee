"""Places for long requests: streams, and uploads of many orders. Nobody gets all of them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil
from typing import Final, NamedTuple

from common.auth.principal import Principal

SHARE_MAX: Final = 0.75
"""Of all places, what one address or one machine may hold."""


class Full(NamedTuple):
    """The limit that leaves no place, and whose it is, such as `of this address`."""

    limit: int
    whose: str


class Places:
    """Limits long requests: for all clients together, for each source and each machine to a share of that, and for each
    customer. With AUTH=off nobody is told from others."""

    def __init__(self, limit: int, limit_of_customer: int) -> None:
        self._limit = limit
        self._share = ceil(limit * SHARE_MAX)
        self._limit_of_customer = limit_of_customer
        self._taken: Counter[str] = Counter()
        """By whose they are, and `""` for all."""

    @property
    def taken(self) -> int:
        return self._taken[""]

    def full(self, principal: Principal, source: str = "") -> Full | None:
        """Why there is no place; None if there is one. Without a source, addresses do not count."""
        for key, limit in self._limits(principal, source):
            if self._taken[key] >= limit:
                return Full(limit, f"of this {key.partition(' ')[0]}" if key else "in all")
        return None

    @contextmanager
    def taking(self, principal: Principal, source: str = "") -> Iterator[None]:
        """Hold a place, which must be there."""
        keys = [key for key, _ in self._limits(principal, source)]
        self._taken.update(keys)
        try:
            yield
        finally:
            for key in keys:
                self._taken[key] -= 1
                if not self._taken[key]:
                    del self._taken[key]

    def _limits(self, principal: Principal, source: str) -> Iterator[tuple[str, int]]:
        yield "", self._limit
        if source:
            yield f"address {source}", self._share
        if principal.kind != "anonymous":
            limit = self._share if principal.is_machine else self._limit_of_customer
            yield f"principal {principal.subject}", limit
