import msgspec
import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException
from psycopg import errors

from common.errors import Failure, Fatal, LossDetected, Poison, Superseded, Transient, classify, describe


@pytest.mark.parametrize(
    "error",
    [
        errors.DeadlockDetected(),
        errors.SerializationFailure(),
        errors.LockNotAvailable(),
        errors.AdminShutdown(),
        errors.QueryCanceled(),
        errors.TooManyConnections(),
        errors.DiskFull(),
        errors.IdleInTransactionSessionTimeout(),
        errors.UniqueViolation(),
        errors.FeatureNotSupported("cached plan must not change result type"),
        errors.InvalidSqlStatementName(),
        errors.ReadOnlySqlTransaction(),
        psycopg.OperationalError("connection refused"),
        psycopg.InterfaceError("the connection is closed"),
        KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN)),
        KafkaException(KafkaError(KafkaError.STALE_MEMBER_EPOCH)),
        KafkaException(KafkaError(KafkaError.FENCED_MEMBER_EPOCH)),
        KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)),
        KafkaException(KafkaError(KafkaError.GROUP_AUTHORIZATION_FAILED)),
        KafkaException(KafkaError(KafkaError._AUTHENTICATION)),
        ConnectionResetError(),
        Transient(),
        Superseded(),
    ],
    ids=repr,
)
def test_errors_that_a_retry_may_mend_are_transient(error: Exception) -> None:
    assert classify(error) is Failure.TRANSIENT


@pytest.mark.parametrize(
    "error",
    [
        errors.NumericValueOutOfRange(),
        errors.InvalidTextRepresentation(),
        errors.CheckViolation(),
        errors.NotNullViolation(),
        errors.ForeignKeyViolation(),
        psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"),
        msgspec.ValidationError(),
        msgspec.DecodeError(),
        Poison(),
    ],
    ids=repr,
)
def test_errors_of_the_data_itself_are_poison(error: Exception) -> None:
    assert classify(error) is Failure.POISON


@pytest.mark.parametrize(
    "error",
    [
        errors.UndefinedTable(),
        errors.FeatureNotSupported("another one"),
        errors.SequenceGeneratorLimitExceeded(),
        errors.DataCorrupted(),
        errors.InsufficientPrivilege(),
        KafkaException(KafkaError(KafkaError._AUTO_OFFSET_RESET)),
        Fatal(),
        LossDetected(),
        psycopg.ProgrammingError("the query has 2 placeholders but 1 parameters were passed"),
        KeyError("a bug of ours"),
    ],
    ids=repr,
)
def test_all_other_errors_are_fatal(error: Exception) -> None:
    assert classify(error) is Failure.FATAL


def test_an_error_that_nobody_expected_is_described_with_its_kind() -> None:
    """`str(KeyError("cust-1"))` is only the key."""
    assert describe(KeyError("cust-000200")) == "KeyError: 'cust-000200'"
    assert describe(AssertionError()) == "AssertionError"
    assert describe(Transient("as it is")) == "as it is"
