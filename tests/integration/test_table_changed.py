"""Someone changes a table while the services run: statements that their sessions had prepared no longer fit."""

from collections.abc import Iterator

import pytest

from tests.stack import Stack
from tests.waiting import eventually

PREPARED_AFTER = 6
"""psycopg prepares a statement at its sixth execution at the latest."""


@pytest.fixture
def altered(stack: Stack) -> Iterator[Stack]:
    yield stack
    with stack.postgres.connect("payment") as owner:
        owner.execute("ALTER TABLE accounts ALTER COLUMN currency TYPE text")


def test_a_column_that_gets_another_type_stops_nobody(altered: Stack) -> None:
    altered.product("altered", price=100, pieces=100)
    altered.await_orderable("altered")
    altered.account("altered", 10_000)
    for _ in range(PREPARED_AFTER):
        altered.await_settled(altered.place("altered", ("altered", 1)))
    altered.balance("altered")
    with altered.postgres.connect("payment") as owner:
        owner.execute("ALTER TABLE accounts ALTER COLUMN currency TYPE varchar(3)")
    assert altered.await_settled(altered.place("altered", ("altered", 1)))["status"] == "confirmed"
    url = altered.url("payment", "/accounts/altered")
    # Each request can meet another of the pool's connections, whose statements were prepared before.
    eventually(lambda: all(altered.http.get(url).status_code == 200 for _ in range(20)), "accounts are read again")
