"""Three classes of failure, and refusals, each with one consequence. `classify` alone decides the class of a failure.

- transient: it may work in a moment. Roll back, back off, retry, for ever.
- refused: declined, out of stock. That is a decision and no error, so it has no exception here.
- poison: this one event can never be processed. Find it and park it, so that the others go on.
- fatal: going on would lose or falsify something. Stop, report why on /readyz and in the log, wait for an operator.
"""

from enum import Enum
from typing import Final

import msgspec
import psycopg
from confluent_kafka import KafkaError, KafkaException

from common.events import Contradiction


class Failure(Enum):
    TRANSIENT = "transient"
    POISON = "poison"
    FATAL = "fatal"


class TandemError(Exception):
    """The base of our own exceptions. The message names the thing, the value and the way out."""


class Transient(TandemError):
    """May work in a moment."""


class Superseded(Transient):
    """Another instance has moved this one's position or row: drop the batch and join the group again."""


class Stopped(Transient):
    """An operator has to resume this consumer. Made with the reason why it stopped."""

    def __str__(self) -> str:
        return f"stopped, waiting for 'just dlq resume': {super().__str__()}"


class Poison(TandemError):
    """An event that can never be processed as it is."""


class Fatal(TandemError):
    """Wrong configuration, missing schema: this process cannot repair it."""


LOSS_HELP: Final = "nothing was skipped; see docs/OPERATIONS.md, 'Loss detected'"


class LossDetected(Fatal):
    """The log or the database is not the one that this consumer knew: records would be skipped, or decided again."""

    def __str__(self) -> str:
        return f"{super().__str__()}; {LOSS_HELP}"


# By SQLSTATE class: connection, rollback, resources, operator intervention. Then single codes.
_TRANSIENT_CLASSES = frozenset({"08", "40", "53", "57"})
_TRANSIENT_STATES = frozenset(
    {
        "55P03",  # lock_not_available: lock_timeout passed
        "25P03",  # idle_in_transaction_session_timeout: this process was frozen, the server gave up on it
        "25P04",  # transaction_timeout: the same, within a pipeline
        "23505",  # unique_violation on our own keys: another instance stored it first, the retry will read it
    }
)
_POISON_STATES = frozenset({"23502", "23503", "23514"})  # NOT NULL, foreign key, CHECK
_SEQUENCE_EXHAUSTED = "2200H"  # of the class of wrong values, and the fault of no event

# A missing right or a refused password is transient: nothing is lost while an operator mends it, and then it goes on.
_FATAL_KAFKA = frozenset(
    {
        KafkaError._INVALID_ARG,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._AUTO_OFFSET_RESET,
    }
)


def classify(error: BaseException) -> Failure:
    """The class of a failure. An unknown failure is fatal: guessing would hide a bug or lose an event."""
    match error:
        case Transient():
            return Failure.TRANSIENT
        case Poison() | Contradiction() | msgspec.DecodeError() | UnicodeDecodeError():
            return Failure.POISON
        case psycopg.Error():
            return _classify_postgres(error)
        case KafkaException():
            return Failure.FATAL if error.args[0].code() in _FATAL_KAFKA else Failure.TRANSIENT
        case OSError():
            return Failure.TRANSIENT
    return Failure.FATAL


def _classify_postgres(error: psycopg.Error) -> Failure:
    state = error.sqlstate
    if state is None:
        # Raised by the client: a lost connection, or a value that it refuses to send, such as a NUL in text.
        match error:
            case psycopg.OperationalError() | psycopg.InterfaceError():
                return Failure.TRANSIENT
            case psycopg.DataError():
                return Failure.POISON
        return Failure.FATAL
    if state[:2] in _TRANSIENT_CLASSES or state in _TRANSIENT_STATES or is_session_stale(error):
        return Failure.TRANSIENT
    if (state[:2] == "22" and state != _SEQUENCE_EXHAUSTED) or state in _POISON_STATES:
        return Failure.POISON
    return Failure.FATAL


def is_session_stale(error: BaseException) -> bool:
    """Whether the statement may work in a new session: this one stays read-only after a failover, or what it has
    prepared no longer fits its tables, as after an ALTER TABLE, or is no longer known."""
    match error:
        case psycopg.errors.ReadOnlySqlTransaction() | psycopg.errors.InvalidSqlStatementName():
            return True
        case psycopg.errors.FeatureNotSupported():
            return "cached plan" in str(error)
    return False


def describe(error: BaseException) -> str:
    """One line for an operator."""
    match error:
        case KafkaException():
            return f"Kafka: {error.args[0].str()}"
        case psycopg.Error():
            return f"PostgreSQL: {(str(error).strip() or type(error).__name__).splitlines()[0]}"
        case TandemError() | Contradiction() | msgspec.DecodeError() | OSError() if str(error):
            return str(error)
    # Nobody expected it, and its text may be no more than a key.
    return f"{type(error).__name__}: {error}".removesuffix(": ")
