"""What the driver can say, one row each; the real faults are in the integration tests."""

import asyncio
from typing import Any

import asyncpg
import pytest
from asyncpg import exceptions as driver
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    InvalidRequestError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as QueuePoolTimeout

from agent_persistence.database.driver_errors import (
    Verdict,
    classify,
    constraint_of,
    sqlstate_of,
    translate,
    translated,
)
from agent_persistence.errors import (
    CommitUnknownError,
    DatabaseError,
    InvalidInputError,
    LockTimeoutError,
    PersistenceError,
    PoolTimeoutError,
    SchemaError,
    StatementTimeoutError,
    UnavailableError,
    UniqueConflictError,
)

CANARY = "canary-4711"

ANSWERS: list[tuple[Exception, type[PersistenceError]]] = [
    (driver.AdminShutdownError(CANARY), UnavailableError),
    (driver.CrashShutdownError(CANARY), UnavailableError),
    (driver.CannotConnectNowError(CANARY), UnavailableError),
    (driver.TooManyConnectionsError(CANARY), UnavailableError),
    (driver.SerializationError(CANARY), UnavailableError),
    (driver.DeadlockDetectedError(CANARY), UnavailableError),
    (driver.ReadOnlySQLTransactionError(CANARY), UnavailableError),
    (driver.ConnectionDoesNotExistError(CANARY), UnavailableError),
    (driver.ConnectionFailureError(CANARY), UnavailableError),
    (driver.InvalidCachedStatementError(CANARY), UnavailableError),
    (driver.TargetServerAttributeNotMatched(CANARY), UnavailableError),
    (driver.InternalClientError(CANARY), UnavailableError),
    (driver.QueryCanceledError(CANARY), StatementTimeoutError),
    (driver.LockNotAvailableError(CANARY), LockTimeoutError),
    (driver.IdleInTransactionSessionTimeoutError(CANARY), StatementTimeoutError),
    (driver.UndefinedTableError(CANARY), SchemaError),
    (driver.UndefinedColumnError(CANARY), SchemaError),
    (driver.UndefinedObjectError(CANARY), SchemaError),
    (driver.InvalidSchemaNameError(CANARY), SchemaError),
    (driver.UniqueViolationError(CANARY), UniqueConflictError),
    (driver.ExclusionViolationError(CANARY), UniqueConflictError),
    (driver.ForeignKeyViolationError(CANARY), DatabaseError),
    (driver.DiskFullError(CANARY), DatabaseError),
    (driver.OutOfMemoryError(CANARY), DatabaseError),
    (driver.InsufficientPrivilegeError(CANARY), DatabaseError),
    (driver.InvalidPasswordError(CANARY), DatabaseError),
    (driver.InvalidCatalogNameError(CANARY), DatabaseError),
    (driver.ProgramLimitExceededError(CANARY), DatabaseError),
]


def wrapped(
    error: Exception, kind: type[DBAPIError] = DBAPIError, *, connection_invalidated: bool = False
) -> DBAPIError:
    """As SQLAlchemy hands it on: its own error around its dialect's around the driver's."""
    adapted = Exception(str(error))
    adapted.__cause__ = error
    return kind(f"SELECT '{CANARY}'", {}, adapted, connection_invalidated=connection_invalidated)


def of_commit(error: Exception) -> Exception:
    """COMMIT is no statement to SQLAlchemy."""
    if isinstance(error, DBAPIError):
        error.statement = None
    return error


@pytest.mark.parametrize("wrap", [wrapped, lambda error: error], ids=["wrapped", "while connecting on 2.0"])
@pytest.mark.parametrize(("error", "expected"), ANSWERS, ids=lambda value: getattr(value, "__name__", None))
def test_an_error_of_the_driver_is_answered_by_its_code(
    error: Exception, expected: type[PersistenceError], wrap: Any
) -> None:
    answer = translate(wrap(error))

    assert type(answer) is expected
    assert answer.committed == "no"
    assert answer.retryable is (expected is UnavailableError)
    assert CANARY not in str(answer)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(CANARY), UnavailableError),
        (FileNotFoundError(CANARY), UnavailableError),
        (TimeoutError(), UnavailableError),
        (asyncpg.InterfaceError(CANARY), DatabaseError),
        (QueuePoolTimeout(CANARY), PoolTimeoutError),
        (ArgumentError(CANARY), DatabaseError),
    ],
)
def test_an_error_without_a_code_is_answered_by_its_kind(error: Exception, expected: type[PersistenceError]) -> None:
    answer = translate(error)

    assert type(answer) is expected
    assert CANARY not in str(answer)


def test_an_error_without_a_code_on_a_closed_connection_is_worth_a_retry() -> None:
    error = wrapped(asyncpg.InterfaceError("connection is closed"), connection_invalidated=True)

    assert type(translate(error)) is UnavailableError


@pytest.mark.parametrize(
    ("error", "committed"),
    [
        (wrapped(driver.ConnectionDoesNotExistError(CANARY), connection_invalidated=True), "unknown"),
        (wrapped(driver.AdminShutdownError(CANARY), connection_invalidated=True), "unknown"),
        (ConnectionResetError(CANARY), "unknown"),
        (wrapped(asyncpg.InterfaceError("connection is closed"), InterfaceError, connection_invalidated=True), "no"),
        (wrapped(driver.SerializationError(CANARY)), "no"),
        (wrapped(driver.DeadlockDetectedError(CANARY)), "no"),
        (wrapped(driver.ForeignKeyViolationError(CANARY)), "no"),
        (wrapped(driver.QueryCanceledError(CANARY)), "no"),
    ],
)
def test_a_commit_is_unknown_only_where_it_may_have_arrived(error: Exception, committed: str) -> None:
    answer = translate(of_commit(error), committing=True)

    assert isinstance(answer, CommitUnknownError) is (committed == "unknown")
    assert answer.committed == committed
    assert CANARY not in str(answer)


GONE = {"connection_invalidated": True}

# What happens, what an application sees of it, what that means, and what it means where COMMIT was under way.
CASES: dict[str, tuple[Exception, Verdict, Verdict]] = {
    "the connection was closed before the statement": (
        wrapped(asyncpg.InterfaceError("connection is closed"), InterfaceError, **GONE),
        Verdict.RETRY,
        Verdict.RETRY,
    ),
    "the connection was closed before COMMIT was sent": (
        wrapped(asyncpg.InterfaceError("cannot call Transaction.commit()"), InterfaceError, **GONE),
        Verdict.RETRY,
        Verdict.RETRY,
    ),
    "the connection is about to be closed": (
        wrapped(driver.InternalClientError("cannot switch to state 15"), InternalError),
        Verdict.RETRY,
        Verdict.AMBIGUOUS,
    ),
    "the connection broke during the statement": (
        wrapped(driver.ConnectionDoesNotExistError(CANARY), **GONE),
        Verdict.RETRY,
        Verdict.AMBIGUOUS,
    ),
    "the connection was reset": (wrapped(ConnectionResetError(CANARY), **GONE), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the server shuts down": (wrapped(driver.AdminShutdownError(CANARY), **GONE), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the server crashes": (wrapped(driver.CrashShutdownError(CANARY), **GONE), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the server is starting": (wrapped(driver.CannotConnectNowError(CANARY)), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the server is full": (
        wrapped(driver.TooManyConnectionsError(CANARY)),
        Verdict.RETRY,
        Verdict.RETRY,
    ),
    "the port is closed": (ConnectionRefusedError(CANARY), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the socket is not there": (FileNotFoundError(CANARY), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the server does not answer": (TimeoutError(), Verdict.RETRY, Verdict.AMBIGUOUS),
    "the statement took too long": (wrapped(driver.QueryCanceledError(CANARY)), Verdict.TIMEOUT, Verdict.TIMEOUT),
    "the lock took too long": (wrapped(driver.LockNotAvailableError(CANARY)), Verdict.TIMEOUT, Verdict.TIMEOUT),
    "the transaction idled too long": (
        wrapped(driver.IdleInTransactionSessionTimeoutError(CANARY), **GONE),
        Verdict.TIMEOUT,
        Verdict.TIMEOUT,
    ),
    "the transaction took too long": (
        wrapped(driver.TransactionTimeoutError(CANARY), **GONE),
        Verdict.TIMEOUT,
        Verdict.TIMEOUT,
    ),
    "a deadlock": (wrapped(driver.DeadlockDetectedError(CANARY)), Verdict.RETRY, Verdict.RETRY),
    "a serialization failure": (wrapped(driver.SerializationError(CANARY)), Verdict.RETRY, Verdict.RETRY),
    "a standby answered": (wrapped(driver.ReadOnlySQLTransactionError(CANARY)), Verdict.RETRY, Verdict.RETRY),
    "no host is of the kind": (
        wrapped(driver.TargetServerAttributeNotMatched(CANARY), InternalError),
        Verdict.RETRY,
        Verdict.AMBIGUOUS,
    ),
    "a plan from before a migration": (
        wrapped(driver.InvalidCachedStatementError(CANARY), NotSupportedError),
        Verdict.RETRY,
        Verdict.RETRY,
    ),
    "the pool is empty": (QueuePoolTimeout(CANARY), Verdict.RETRY, Verdict.AMBIGUOUS),
    "a duplicate": (wrapped(driver.UniqueViolationError(CANARY), IntegrityError), Verdict.CONFLICT, Verdict.CONFLICT),
    "an overlap": (wrapped(driver.ExclusionViolationError(CANARY), IntegrityError), Verdict.CONFLICT, Verdict.CONFLICT),
    "a broken reference": (
        wrapped(driver.ForeignKeyViolationError(CANARY), IntegrityError),
        Verdict.FATAL,
        Verdict.FATAL,
    ),
    "a value out of range": (wrapped(driver.NumericValueOutOfRangeError(CANARY)), Verdict.FATAL, Verdict.FATAL),
    "a missing table": (wrapped(driver.UndefinedTableError(CANARY), ProgrammingError), Verdict.FATAL, Verdict.FATAL),
    "a full disk": (wrapped(driver.DiskFullError(CANARY)), Verdict.FATAL, Verdict.FATAL),
    "no memory": (wrapped(driver.OutOfMemoryError(CANARY)), Verdict.FATAL, Verdict.FATAL),
    "a wrong password": (driver.InvalidPasswordError(CANARY), Verdict.FATAL, Verdict.FATAL),
    "a session that is over": (InvalidRequestError(CANARY), Verdict.FATAL, Verdict.FATAL),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_has_its_verdict_before_and_during_commit(case: str) -> None:
    error, before, during = CASES[case]

    assert (classify(error), classify(of_commit(error), committing=True)) == (before, during)


def test_what_a_statement_met_that_ran_before_commit_is_not_unknown() -> None:
    error = wrapped(driver.ConnectionDoesNotExistError(CANARY), connection_invalidated=True)

    assert classify(error, committing=True) is Verdict.RETRY


def test_a_session_that_is_over_says_so() -> None:
    assert "unit of work has ended" in str(translate(InvalidRequestError(CANARY)))


def test_a_refusal_of_the_server_carries_code_and_constraint() -> None:
    error = driver.ForeignKeyViolationError(CANARY)
    error.constraint_name = "fk_threads_user_id_users"

    answer = translate(wrapped(error))

    assert isinstance(answer, DatabaseError)
    assert (answer.sqlstate, answer.constraint) == ("23503", "fk_threads_user_id_users")
    assert str(answer).endswith("(sqlstate 23503): it violates the constraint fk_threads_user_id_users")


def test_an_error_without_code_and_constraint_has_neither() -> None:
    assert sqlstate_of(ValueError()) is None
    assert constraint_of(wrapped(ValueError())) is None


def test_a_missing_table_names_the_command_that_makes_it() -> None:
    assert "agent-persistence upgrade" in str(translate(driver.UndefinedTableError("x")))


@pytest.mark.parametrize(
    "error", [wrapped(driver.UndefinedTableError("x")), OSError(), driver.InvalidCatalogNameError("x")]
)
def test_the_driver_s_own_error_is_the_cause(error: Exception) -> None:
    with pytest.raises(PersistenceError) as caught, translated():
        raise error

    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [InvalidInputError("name", "is bad"), ValueError(), asyncio.CancelledError()])
def test_what_the_driver_did_not_raise_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, translated():
        raise error

    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (driver.DiskFullError(CANARY), "the disk of the database is full"),
        (driver.OutOfMemoryError(CANARY), "out of memory"),
        (driver.TooManyConnectionsError(CANARY), "no more connections"),
    ],
)
def test_what_a_server_ran_out_of_is_named(error: Exception, said: str) -> None:
    assert said in str(translate(error))
