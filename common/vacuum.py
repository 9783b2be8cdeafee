"""Warns of what keeps PostgreSQL from removing old versions of rows.

Every batch updates the same few rows of `positions`, and of accounts or products. PostgreSQL removes the old versions,
unless a transaction is open that began before. Then a table of 8 kB grows by megabytes a minute, and each read of it
takes longer. docs/OPERATIONS.md has the figures, and says what to do.
"""

from typing import Final, NamedTuple

from loguru import logger

from common import metrics
from common.postgres import Conn, transaction

CHECK_EVERY_S: Final = 30.0
SNAPSHOT_OLD_S: Final = 60.0
TRANSACTIONS_AGE_MAX: Final = 1_000_000_000
"""PostgreSQL refuses to write at about 2^31; its own emergency vacuum begins at 200 million, so this is a warning that
it does not get through."""
_STATE: Final = "SELECT oldest_snapshot_s, oldest_snapshot, autovacuum, transactions_age FROM vacuum_state()"


class VacuumState(NamedTuple):
    """One database: the age of its oldest open transaction in seconds, the session that has it, whether autovacuum is
    on, and how many transactions ago the oldest row was written."""

    oldest_snapshot_s: float
    oldest_snapshot: str | None
    autovacuum: bool
    transactions_age: int


def warnings(state: VacuumState) -> list[str]:
    """What an operator should look at."""
    problems = []
    if state.oldest_snapshot_s > SNAPSHOT_OLD_S:
        problems.append(
            f"{state.oldest_snapshot} has had a transaction open for {state.oldest_snapshot_s:.0f} s: tables grow and "
            "become slow until it ends"
        )
    if not state.autovacuum:
        problems.append("autovacuum is off: tables grow and become slow until it is on again")
    if state.transactions_age > TRANSACTIONS_AGE_MAX:
        problems.append(
            f"the oldest row was written {state.transactions_age} transactions ago, and at 2^31 the database refuses "
            "to write: vacuum does not get through; look for a prepared transaction or a replication slot"
        )
    return problems


class VacuumWatch:
    """Reads the state of a service's database now and then."""

    def __init__(self, group: str) -> None:
        self._group = group
        self._next_s = 0.0

    def check_when_due(self, connection: Conn, at_s: float) -> None:
        """Set the metric and log warnings, given the monotonic time. Raises `psycopg.Error`."""
        if at_s < self._next_s:
            return
        self._next_s = at_s + CHECK_EVERY_S
        with transaction(connection):
            row = connection.execute(_STATE).fetchone()
        assert row is not None
        state = VacuumState(*row)
        metrics.oldest_snapshot_s.labels(self._group).set(state.oldest_snapshot_s)
        for warning in warnings(state):
            logger.bind(group=self._group).warning("the database cannot be cleaned up: {}", warning)
