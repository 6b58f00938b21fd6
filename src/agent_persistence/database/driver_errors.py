"""Maps driver errors to this package's exceptions: by connection state and sqlstate, never by English text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

from asyncpg import InterfaceError, InternalClientError, PostgresError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import InterfaceError as SQLAlchemyInterfaceError
from sqlalchemy.exc import TimeoutError as QueuePoolTimeout

from agent_persistence.database.pool_timeouts import pool_timeout
from agent_persistence.errors import (
    CommitUnknownError,
    DatabaseError,
    LockTimeoutError,
    PersistenceError,
    SchemaError,
    SequenceBehindError,
    StatementTimeoutError,
    UnavailableError,
    UniqueConflictError,
)

# SQLAlchemy 2.0 does not wrap the driver's errors of connecting; 2.1 does.
DRIVER_ERRORS: Final = (SQLAlchemyError, OSError, PostgresError, InterfaceError, InternalClientError)
TOO_MANY_CONNECTIONS: Final = "53300"
"""The code of a server, database or role that admits no more connections."""

_NO_RIGHT: Final = "42501"  # insufficient_privilege
_READ_ONLY_TRANSACTION: Final = "25006"
# Transient: the server restarts or is full, a standby answered, or a conflict chose this transaction as its victim.
# PostgreSQL has undone the whole transaction then, so the whole unit of work is repeated, never its last statement.
_TRY_AGAIN: Final = {
    "57P01",  # admin_shutdown
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    TOO_MANY_CONNECTIONS,
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    _READ_ONLY_TRANSACTION,
}
# Final: repositories answer a repeated insert by ON CONFLICT and a comparison, so a violation is of a host's index.
_TAKEN: Final = {
    "23505",  # unique_violation
    "23P01",  # exclusion_violation
}
_LOCK_NOT_AVAILABLE: Final = "55P03"
# Not transient: what took too long once takes as long again. Only a lock is tried for once more, by the caller.
_TOO_SLOW: Final = {
    _LOCK_NOT_AVAILABLE,
    "57014",  # query_canceled
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
}
# Transient errors without a useful code: a cached plan from before a migration, no server of the kind that the URL asks
# for, and a connection whose end the server has announced ("cannot switch to state").
_TRANSIENT: Final = {"InvalidCachedStatementError", "TargetServerAttributeNotMatched", "InternalClientError"}
# Raised on purpose by statements that draw a number; see repositories.numbering.
_NOT_THE_LATEST: Final = "2201G"  # invalid_argument_for_width_bucket_function
# What a number that was given before violates instead.
_OF_NUMBERS: Final = {"pk_states", "ck_states_whole_or_patch", "pk_graph_values", "pk_state_streams", "pk_cache_outbox"}
_NO_SCHEMA: Final = {"42P01", "42703", "42704", "3F000"}  # undefined table, column, object, schema
# Sent by a pooler that met prepared statements or start-up parameters, and for other protocol errors too.
_POOLER: Final = {
    "08P01",  # protocol_violation: an unsupported start-up parameter
    "26000",  # invalid_sql_statement_name: it was prepared on another connection of the server
    "42P05",  # duplicate_prepared_statement: another client prepared it on this one
}
_POOLER_ADVICE: Final = "; behind PgBouncer set PERSISTENCE_PGBOUNCER=true"
_GRANT: Final = "agent-persistence doctor names the GRANT"
_NOT_OWNED: Final = "must be owner of"
_DETAIL: Final = "\nDETAIL:"
_UNREACHABLE: Final = "the database cannot be reached, or closed the connection; see the cause, then try again"
# Known by the code: operators treat these otherwise than a server that is away.
_REASONS: Final = {
    _READ_ONLY_TRANSACTION: "the database takes no writes: a standby answered, or default_transaction_read_only is on, "
    "which some providers do to a database whose disk is full; agent-persistence doctor tells",
    TOO_MANY_CONNECTIONS: "the database admits no more connections: lower PERSISTENCE_POOL_SIZE, or raise "
    "max_connections, or the CONNECTION LIMIT of the role or the database",
}
_FULL: Final = {
    "53100": "the disk of the database is full",
    "53200": "the server of the database is out of memory",
}


@contextmanager
def translated(bind: Callable[[], Engine | Connection] | None = None) -> Iterator[None]:
    """Translate driver errors that leave the block; the driver's error is the cause.

    Args:
        bind: returns what the block takes a connection from; called after an error only.
    """
    try:
        yield
    except DRIVER_ERRORS as error:
        raise translate(error, bind=bind and bind()) from error
    except AttributeError as error:
        if not _is_of_a_closed_connection(error):
            raise
        raise UnavailableError(_UNREACHABLE) from error


def _is_of_a_closed_connection(error: AttributeError) -> bool:
    """Whether the driver raised it: it does so if its connection is closed while it prepares a statement in steps."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith("asyncpg.")


class Verdict(StrEnum):
    """The consequence of a driver error for the work that met it."""

    RETRY = "retry"
    """Nothing was committed; a retry may succeed."""
    AMBIGUOUS = "ambiguous"
    """The connection closed during COMMIT: the work may be committed or not."""
    CONFLICT = "conflict"
    """Nothing was committed: a unique value is taken."""
    TIMEOUT = "timeout"
    """Nothing was committed: a statement, lock or transaction timeout of the server passed."""
    FATAL = "fatal"
    """Nothing was committed; a retry would fail as well."""


def classify(error: BaseException, *, committing: bool = False) -> Verdict:
    """Classify an error: what became of the work, and whether a retry may help.

    Args:
        committing: whether the error came from COMMIT.
    """
    sqlstate = sqlstate_of(error)
    # SQLAlchemy's classes do not tell: deadlocks, timeouts and connections that break are bare DBAPIErrors.
    if _is_behind(error, sqlstate):
        return Verdict.FATAL
    if sqlstate in _TAKEN:
        return Verdict.CONFLICT
    if sqlstate in _TOO_SLOW:
        return Verdict.TIMEOUT
    if not _is_transient(error, sqlstate):
        return Verdict.FATAL
    return Verdict.AMBIGUOUS if committing and not _certainly_undone(error) else Verdict.RETRY


def translate(
    error: BaseException, *, committing: bool = False, bind: Engine | Connection | None = None
) -> PersistenceError:
    """Return this package's exception for an error of SQLAlchemy or the driver.

    The DETAIL is removed from the driver's error: it repeats row contents, which would reach every logged traceback.

    Args:
        error: the error.
        committing: whether it came from COMMIT.
        bind: what the failed step took a connection from, if that is known.
    """
    for candidate in _chain(error):
        _remove_detail(candidate)
    match classify(error, committing=committing):
        case Verdict.RETRY if isinstance(error, QueuePoolTimeout):
            return pool_timeout(bind)
        case Verdict.RETRY:
            reason = _REASONS.get(sqlstate_of(error) or "", _UNREACHABLE)
            return UnavailableError(reason + _advice(error))
        case Verdict.AMBIGUOUS:
            return CommitUnknownError("the connection closed during COMMIT; read before writing again")
        case Verdict.CONFLICT:
            return UniqueConflictError(constraint_of(error))
        case Verdict.TIMEOUT:
            sqlstate = sqlstate_of(error)
            kind = LockTimeoutError if sqlstate == _LOCK_NOT_AVAILABLE else StatementTimeoutError
            return kind(f"a statement, lock or transaction exceeded its time limit (sqlstate {sqlstate})")
        case Verdict.FATAL:
            return _fatal(error)


def sqlstate_of(error: BaseException) -> str | None:
    """Return the server's five-character code, or ``None`` if the error did not come from the server."""
    return _attribute(error, "sqlstate")


def constraint_of(error: BaseException) -> str | None:
    """Return the name of the violated constraint, or ``None``."""
    return _attribute(error, "constraint_name")


def _attribute(error: BaseException, name: str) -> str | None:
    found = (getattr(candidate, name, None) for candidate in _chain(error))
    return next((value for value in found if isinstance(value, str)), None)


def _is_transient(error: BaseException, sqlstate: str | None) -> bool:
    # Without a code: the driver raises OSError where it cannot connect, and TimeoutError, an OSError, at its limits.
    if isinstance(error, OSError | QueuePoolTimeout) or getattr(error, "connection_invalidated", False):
        return True
    if sqlstate is not None and (sqlstate in _TRY_AGAIN or sqlstate.startswith("08")):
        return True
    return any(type(candidate).__name__ in _TRANSIENT for candidate in _chain(error))


def _is_behind(error: BaseException, sqlstate: str | None) -> bool:
    return sqlstate == _NOT_THE_LATEST or constraint_of(error) in _OF_NUMBERS


def _fatal(error: BaseException) -> PersistenceError:
    if isinstance(error, InvalidRequestError):
        return DatabaseError("the session cannot be used: its unit of work has ended or failed, or two tasks share it")
    if isinstance(error, SQLAlchemyError) and not isinstance(error, DBAPIError):
        return DatabaseError(f"SQLAlchemy refused: {type(error).__name__}")
    sqlstate = sqlstate_of(error)
    if _is_behind(error, sqlstate):
        return SequenceBehindError()
    if sqlstate in _NO_SCHEMA:
        return SchemaError("a table or column is missing; run: agent-persistence upgrade")
    if sqlstate == _NO_RIGHT:
        # Its text names the object and holds nothing of a row; the server knows it in no other form.
        refused = _attribute(error, "message") or "a right is missing"
        # No GRANT gives ownership, which the server says in words only.
        advice = "run it as the owner of the tables" if refused.startswith(_NOT_OWNED) else _GRANT
        return DatabaseError(f"{refused} (sqlstate {sqlstate}); {advice}", sqlstate=sqlstate)
    constraint = constraint_of(error)
    broken = f": it violates the constraint {constraint}" if constraint else ""
    refused = _FULL.get(sqlstate or "", "PostgreSQL refused the statement")
    reason = f"{refused} (sqlstate {sqlstate}){broken}{_advice(error)}"
    return DatabaseError(reason, sqlstate=sqlstate, constraint=constraint)


def _advice(error: BaseException) -> str:
    return _POOLER_ADVICE if sqlstate_of(error) in _POOLER else ""


def _certainly_undone(error: BaseException) -> bool:
    """Whether COMMIT was refused, or never sent.

    It was not sent where the driver knew that the connection was closed, or where a statement that the session runs
    before COMMIT met the error.
    """
    if getattr(error, "statement", None) is not None:
        return True
    sqlstate = sqlstate_of(error)
    if sqlstate is not None:
        # The server can end the connection after it has committed. With any other code it refused COMMIT.
        return not sqlstate.startswith(("08", "57P"))
    return isinstance(error, SQLAlchemyInterfaceError)


def _remove_detail(error: BaseException) -> None:
    if getattr(error, "detail", None):
        error.detail = None  # type: ignore[attr-defined]  # asyncpg's attribute, and that of SQLAlchemy's wrapper
    error.args = tuple(one.partition(_DETAIL)[0] if isinstance(one, str) else one for one in error.args)


def _chain(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        # SQLAlchemy's error has the dialect's as ``orig``, which has asyncpg's, with code and constraint, as its cause.
        current = getattr(current, "orig", None) or current.__cause__
