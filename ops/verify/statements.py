"""The six statements that always hold, and what is said about a breach of one."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple


class Statement(IntEnum):
    DECIDED = 1
    MONEY = 2
    STOCK = 3
    OUTCOME = 4
    ONCE = 5
    WAITING = 6


DECIDED, MONEY, STOCK, OUTCOME, ONCE, WAITING = Statement

TEXTS: Final[Mapping[Statement, tuple[str, str]]] = {
    DECIDED: ("every order in the log has its row, its payment and its stock decision", "orders"),
    MONEY: ("every balance is what its ledger says, and not below zero", "accounts"),
    STOCK: ("every stock is what its movements say, and not below zero", "products"),
    OUTCOME: ("confirmed means captured and reserved, all else no net money or stock", "settled orders"),
    ONCE: ("nothing is decided twice", "decisions"),
    WAITING: ("nothing waits for ever, and what is parked is listed", "unsettled orders and parked events"),
}
"""What each statement says, and what is counted as checked for it."""


class Finding(NamedTuple):
    """A breach: of which statement, and what is wrong."""

    statement: Statement
    problem: str


class Unproven(Exception):
    """Something cannot be proved. The message says what, and why."""
