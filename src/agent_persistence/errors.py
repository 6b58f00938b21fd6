"""The exceptions of this package.

    PersistenceError
    ├── SettingsError (ValueError)         a PERSISTENCE_* variable is wrong
    ├── InvalidInputError (ValueError)     an argument was refused before any SQL ran
    ├── NotFoundError (LookupError)
    │   ├── ThreadNotFoundError
    │   ├── MessageNotFoundError
    │   └── StateNotFoundError
    ├── ConflictError
    │   ├── ThreadExistsError
    │   ├── IdempotencyConflictError       same id, different content
    │   ├── StateConflictError             expected_version is not the latest
    │   └── UniqueConflictError            a unique index of the host refused a row
    ├── CorruptRowError                    a stored row cannot be read
    ├── CheckpointingDisabledError         PERSISTENCE_ENABLE_CHECKPOINTING=false
    ├── UnavailableError                   worth a retry
    │   └── PoolTimeoutError
    ├── StatementTimeoutError              a statement exceeded its limit
    │   └── LockTimeoutError               ... while waiting for a lock
    ├── CommitUnknownError                 the connection closed during COMMIT
    ├── DatabaseError                      the server refused; a retry will not help
    ├── UnsavedStatesError                 degraded mode ended with states not in the database
    ├── MisuseError                        the store is used incorrectly
    │   ├── ClosedError                    the store was closed
    │   ├── WrongLoopError                 the store belongs to another event loop
    │   ├── ForkedError                    the store belongs to the parent process
    │   ├── UnitOfWorkInUseError           two tasks use one unit of work at once
    │   └── SyncInLoopError (InvalidStateError)   a blocking call in the event loop it waits for
    ├── SchemaError
    │   ├── NotMigratedError
    │   ├── IdTypeMismatchError
    │   ├── SchemaConflictError            objects of another program have our names
    │   ├── MigrationLockTimeoutError
    │   ├── PoolerError                    migrations need a direct connection
    │   ├── InvalidIndexError
    │   ├── MissingRightsError             the role lacks rights on our tables
    │   └── SequenceBehindError            new rows would be numbered before stored ones
    ├── EmbeddedServerError
    └── MissingExtraError (ImportError)

Values are attributes, never only text. No message holds row contents, a connection string or a password. The driver's
error is the ``__cause__``.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

Committed = Literal["yes", "no", "unknown"]


class PersistenceError(Exception):
    """The base class of the errors of this package.

    Attributes:
        retryable: whether the same call may succeed if it is repeated.
        committed: whether the work that failed is in the database: ``"yes"``, ``"no"`` or ``"unknown"``.
    """

    retryable: ClassVar[bool] = False
    committed: ClassVar[Committed] = "no"

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive pickle and copy: an exception would be made again by passing its text as the only argument."""
        return _made_again, (type(self), self.args), self.__dict__


def _made_again(kind: type[PersistenceError], args: tuple[Any, ...]) -> PersistenceError:
    return kind.__new__(kind, *args)


class SettingsError(PersistenceError, ValueError):
    """A ``PERSISTENCE_*`` variable is wrong; nothing was started."""

    def __init__(self, variable: str, reason: str) -> None:
        super().__init__(f"{variable}: {reason}")
        self.variable = variable
        self.reason = reason


class InvalidInputError(PersistenceError, ValueError):
    """An argument was refused before any SQL ran; the session stays usable."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason


# One error for both cases, because two would tell a caller which ids other owners use.
class NotFoundError(PersistenceError, LookupError):
    """A row does not exist, or belongs to another owner; the error does not tell which."""


class ThreadNotFoundError(NotFoundError):
    """The owner has no such thread."""

    def __init__(self, thread_id: object, hint: str = "") -> None:
        super().__init__(f"thread {thread_id!r} does not exist{hint}")
        self.thread_id = thread_id


class MessageNotFoundError(NotFoundError):
    """The owner's thread has no such message."""

    def __init__(self, thread_id: object, message_id: object) -> None:
        super().__init__(f"message {message_id!r} does not exist in thread {thread_id!r}")
        self.thread_id = thread_id
        self.message_id = message_id


class StateNotFoundError(NotFoundError):
    """The owner's thread has no such state."""

    def __init__(self, thread_id: object, version: int | None = None) -> None:
        what = "no state" if version is None else f"no state of version {version}"
        super().__init__(f"thread {thread_id!r} has {what}")
        self.thread_id = thread_id
        self.version = version


class ConflictError(PersistenceError):
    """Another writer was first; read again, then decide."""


class ThreadExistsError(ConflictError):
    """The thread id is taken; leave it out to have one generated."""

    def __init__(self, thread_id: object) -> None:
        super().__init__(f"thread {thread_id!r} cannot be created: the id is taken")
        self.thread_id = thread_id


class RunInProgressError(ConflictError):
    """Another run is in progress in the thread; wait until it has ended, or 30 seconds if its process has died."""

    def __init__(self, thread_id: object) -> None:
        super().__init__(
            f"a run is in progress in thread {thread_id!r}; wait until it has ended, "
            f"or 30 seconds if its process has died"
        )
        self.thread_id = thread_id


class IdempotencyConflictError(ConflictError):
    """The thread already has a message with this id and different content."""

    def __init__(self, thread_id: object, message_id: object) -> None:
        super().__init__(f"message id {message_id!r} already exists in thread {thread_id!r} with different content")
        self.thread_id = thread_id
        self.message_id = message_id


class StateConflictError(ConflictError):
    """``expected_version`` is not the latest version: another writer has saved a state since."""

    def __init__(self, thread_id: object, expected: int, found: int) -> None:
        super().__init__(f"thread {thread_id!r} is at state version {found}, not {expected}; read it again and retry")
        self.thread_id = thread_id
        self.expected = expected
        self.found = found


class UniqueConflictError(ConflictError):
    """A row violates a unique index that the host added.

    Attributes:
        constraint: the name of the index or constraint, or ``None`` if the server did not name it.
    """

    def __init__(self, constraint: str | None) -> None:
        super().__init__(
            f"violates the unique constraint {constraint}" if constraint else "violates a unique constraint"
        )
        self.constraint = constraint


class CorruptRowError(PersistenceError):
    """A stored row cannot be read; the others can."""

    def __init__(self, table: str, key: object, column: str) -> None:
        super().__init__(
            f"{table} row {key!r} cannot be read: column {column} holds a value that this package does not write"
        )
        self.table = table
        self.key = key
        self.column = column


class CheckpointingDisabledError(PersistenceError):
    """States are refused because of ``PERSISTENCE_ENABLE_CHECKPOINTING=false``."""

    def __init__(self) -> None:
        super().__init__("states are not saved while PERSISTENCE_ENABLE_CHECKPOINTING=false")


class UnavailableError(PersistenceError):
    """The database cannot be reached, or asks for a retry."""

    retryable = True


class PoolTimeoutError(UnavailableError):
    """No connection was released within ``PERSISTENCE_POOL_TIMEOUT`` seconds.

    Attributes:
        setting: the size of the pool that was exhausted: ``PERSISTENCE_POOL_SIZE``, or ``pool_size`` of the
            application's own engine.
    """

    def __init__(self, reason: str, *, setting: str = "PERSISTENCE_POOL_SIZE") -> None:
        super().__init__(reason)
        self.setting = setting


class StatementTimeoutError(PersistenceError):
    """A statement, lock or transaction exceeded its time limit."""


class LockTimeoutError(StatementTimeoutError):
    """Another transaction held a row for longer than ``PERSISTENCE_LOCK_TIMEOUT``."""


class CommitUnknownError(PersistenceError):
    """The connection closed during COMMIT, and the database could not tell since whether the work is in it."""

    committed = "unknown"


class UnsavedStatesError(PersistenceError):
    """Degraded mode ended with states that are not in the database: write them elsewhere, or they are lost.

    Attributes:
        states: an ``UnsavedState`` for each, in the order in which they were saved.
    """

    def __init__(self, states: Sequence[Any]) -> None:
        super().__init__(f"{len(states)} states that were saved in degraded mode are not in the database; see `states`")
        self.states = tuple(states)


class MisuseError(PersistenceError):
    """The store is used incorrectly."""


class ClosedError(MisuseError):
    """A store was used after it was closed, or was closed during a call."""

    def __init__(self) -> None:
        super().__init__("this store is closed; open another one")


class WrongLoopError(MisuseError):
    """A store was used in another event loop than the one it was opened in."""

    def __init__(self) -> None:
        super().__init__("this store belongs to another event loop; open one in each loop, or use one loop")


class ForkedError(MisuseError):
    """A store was used in a child process that was forked after its first use."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"this store belongs to process {pid}; open one in each process, after the fork")
        self.pid = pid


class UnitOfWorkInUseError(MisuseError):
    """Two tasks ran statements of one unit of work at the same time."""

    def __init__(self) -> None:
        super().__init__("another task is running a statement of this unit of work; begin one for each task")


class SyncInLoopError(MisuseError, asyncio.InvalidStateError):
    """A blocking method was called in the event loop that would have to do its work.

    It is an ``asyncio.InvalidStateError`` too, which LangGraph's own stores raise.
    """

    def __init__(self) -> None:
        super().__init__("this call would wait for its own event loop: use the async method (ainvoke, aget_state ...)")


class DatabaseError(PersistenceError):
    """The database refused a statement; a retry would be refused too.

    Attributes:
        sqlstate: the five-character code of PostgreSQL's appendix A, or ``None``.
        constraint: the name of the violated constraint, or ``None``.
    """

    def __init__(self, reason: str, *, sqlstate: str | None = None, constraint: str | None = None) -> None:
        super().__init__(reason)
        self.sqlstate = sqlstate
        self.constraint = constraint


class SchemaError(PersistenceError):
    """The schema of the database is not the one that this version needs."""


class NotMigratedError(SchemaError):
    """The schema is older than this version; ``command`` upgrades it.

    Attributes:
        elsewhere: other schemas that have our tables, if the settings name none.
    """

    def __init__(
        self,
        current: str | None,
        head: str,
        command: str = "agent-persistence upgrade",
        *,
        elsewhere: Sequence[str] = (),
    ) -> None:
        at = f"at revision {current}" if current else "not created yet"
        there = f"; schema {' and '.join(elsewhere)} has it: set PERSISTENCE_DB_SCHEMA, or" if elsewhere else ";"
        super().__init__(f"the schema is {at}, this version needs {head}{there} run: {command}")
        self.current = current
        self.head = head
        self.command = command
        self.elsewhere = tuple(elsewhere)


class IdTypeMismatchError(SchemaError):
    """The database was created with another id type than the settings name."""

    def __init__(self, variable: str, recorded: str, given: str) -> None:
        super().__init__(
            f"the database was created with {variable}={recorded}, the settings say {given}. "
            f"A setting does not change a column: set {variable}={recorded}. If the tables are empty: with "
            f"{variable}={recorded} run agent-persistence downgrade base, then set {variable}={given} and upgrade. "
            "Else use a new database, PERSISTENCE_DB_SCHEMA or PERSISTENCE_EMBEDDED_DIR, and copy the data"
        )
        self.variable = variable
        self.recorded = recorded
        self.given = given


class SchemaConflictError(SchemaError):
    """Objects of another program have the names of ours; nothing was created."""

    def __init__(self, schema: str, names: Sequence[str], remedy: str) -> None:
        super().__init__(f"schema {schema} already has {', '.join(names)}, not made by agent-persistence; {remedy}")
        self.schema = schema
        self.names = tuple(names)


class MigrationLockTimeoutError(SchemaError):
    """Another migration held the lock for longer than ``PERSISTENCE_MIGRATION_LOCK_TIMEOUT``."""

    retryable = True

    def __init__(self, waited_seconds: float) -> None:
        super().__init__(
            f"another migration has held the lock for {waited_seconds:.0f} s; "
            "wait for it to end, or raise PERSISTENCE_MIGRATION_LOCK_TIMEOUT"
        )
        self.waited_seconds = waited_seconds


class PoolerError(SchemaError):
    """A migration was started through a pooler in transaction mode, which cannot hold its session lock."""

    def __init__(self) -> None:
        super().__init__(
            "this address leads through a connection pooler, which shares the connection with other clients; "
            "set PERSISTENCE_MIGRATION_DATABASE_URL to the server's direct address, or to a pooler in session mode"
        )


class InvalidIndexError(SchemaError):
    """An interrupted build has left an index invalid."""

    def __init__(self, names: Sequence[str], command: str = "agent-persistence upgrade") -> None:
        super().__init__(f"unfinished indexes: {', '.join(names)}; drop them, then run: {command}")
        self.names = tuple(names)
        self.command = command


class MissingRightsError(SchemaError):
    """The role of the application lacks rights on our tables.

    Attributes:
        role: the role.
        command: the GRANTs that it lacks.
    """

    def __init__(self, role: str, command: str) -> None:
        super().__init__(f"the role {role} lacks rights; as the owner of the tables, run: {command}")
        self.role = role
        self.command = command


class SequenceBehindError(SchemaError):
    """A sequence is behind the numbers in its table, so a new row would not be the latest; nothing was written.

    Logical replication and data-only restores copy rows without the sequences that number them.

    Attributes:
        columns: the numbered columns, such as ``states.state_id``; empty if a write met it, which cannot tell.
        command: advances the sequences, or finds them.
    """

    def __init__(self, columns: Sequence[str] = (), command: str = "agent-persistence doctor") -> None:
        which = f" of {', '.join(columns)}" if columns else ""
        super().__init__(
            f"a sequence{which} is behind the stored rows, and a new row would not be the latest; "
            f"stop every writer, then run: {command}"
        )
        self.columns = tuple(columns)
        self.command = command


class EmbeddedServerError(PersistenceError):
    """A server of the ``embedded`` extra could not be started."""


class MissingExtraError(PersistenceError, ImportError):
    """A module was imported whose extra is not installed."""

    def __init__(self, extra: str) -> None:
        super().__init__(f"not installed; run: pip install 'agent-persistence[{extra}]'")
        self.extra = extra


_RENAMED: Final = {
    "CommitUnknown": CommitUnknownError,
    "CorruptRow": CorruptRowError,
    "IdempotencyConflict": IdempotencyConflictError,
    "InvalidInput": InvalidInputError,
    "LockTimeout": LockTimeoutError,
    "MigrationLockTimeout": MigrationLockTimeoutError,
    "PoolTimeout": PoolTimeoutError,
    "StateConflict": StateConflictError,
    "StatementTimeout": StatementTimeoutError,
    "UniqueConflict": UniqueConflictError,
}
"""Names of 0.1.0. As classes they are removed after the next release; HTTP clients are told them for good."""

_NAMES_FOR_CLIENTS: Final = {renamed: name for name, renamed in _RENAMED.items()}


def name_for_clients(error: BaseException) -> str:
    """Return the name of an error's class that HTTP clients see; it stays when the class is renamed."""
    return _NAMES_FOR_CLIENTS.get(type(error), type(error).__name__)


if not TYPE_CHECKING:  # so that type checkers report an old name, and suggest the new one

    def __getattr__(name: str, *, stacklevel: int = 2) -> type[PersistenceError]:
        """Return a class by its name of 0.1.0, with a ``DeprecationWarning``; the package calls it too."""
        renamed = _RENAMED.get(name)
        if renamed is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(f"{name} was renamed to {renamed.__name__}", DeprecationWarning, stacklevel=stacklevel)
        return renamed
