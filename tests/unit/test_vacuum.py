import pytest

from common.vacuum import SNAPSHOT_OLD_S, TRANSACTIONS_AGE_MAX, VacuumState, warnings

FINE = VacuumState(SNAPSHOT_OLD_S, "session 7 of postgres (pg_dump)", True, TRANSACTIONS_AGE_MAX)


def test_a_short_transaction_is_no_reason_to_warn() -> None:
    assert warnings(FINE) == []
    assert warnings(VacuumState(0, None, True, 0)) == []


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            FINE._replace(oldest_snapshot_s=312.4),
            "session 7 of postgres (pg_dump) has had a transaction open for 312 s",
        ),
        (FINE._replace(autovacuum=False), "autovacuum is off"),
        (FINE._replace(transactions_age=1_500_000_000), "1500000000 transactions ago"),
    ],
)
def test_what_keeps_vacuum_from_its_work_is_named(state: VacuumState, words: str) -> None:
    [warning] = warnings(state)
    assert words in warning
