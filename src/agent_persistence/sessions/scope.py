"""The scope of repositories: models, one owner, options, and the connection on which their statements run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field, replace
from typing import Any, Final, Generic

from sqlalchemy import Column, ColumnElement, Executable, Result, Table, cast, func, select, true
from sqlalchemy.dialects.postgresql import REGCLASS

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.encoding.exact_json import EncodedJSON, encode_json, sanitize
from agent_persistence.encoding.recent_states import RecentStates
from agent_persistence.errors import MisuseError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.records import ANY_USER, AnyUser, SavedState, TouchedState
from agent_persistence.sessions.commit_evidence import RowEvidence
from agent_persistence.telemetry.telemetry import Telemetry

DRAWS: Final = 10
"""How often the database is asked for an id that is not taken; each time a run of taken ids is skipped."""

Query = Any
"""A SELECT. Its class is generic over one tuple in SQLAlchemy 2.0, over the columns in 2.1: no spelling fits both."""

_NEEDS_TRANSACTION: Final = "a write needs a transaction"


@frozen
class StoreOptions(Generic[IdT]):
    """The settings that repositories obey.

    Attributes:
        new_id: makes an id in Python; ``None`` where the database makes ids.
        draws_ids: whether these ids are random, so that no other row can have one of them.
        touch_interval: the shortest time between two changes of a thread's ``updated_at``, in seconds.
        max_states: how many of its newest states a thread keeps; 0 keeps all.
        max_json_bytes: the largest encoded JSON value, in bytes.
        replace_unstorable: replace NUL and lone surrogates instead of refusing them.
        save_states: ``False`` refuses to save states.
        row_level_security: name the owner to the database before its rows are read.
        patches_from: from this size on, in bytes, states are kept as changes; 0 keeps every state whole.
        is_cached: whether a cache must be told of changed states.
        reply_seconds: how long a statement, a COPY or a COMMIT may take.
        wait_seconds: how much longer the first statement of a transaction may take, which waits for a connection.
        telemetry: counts and measures.
    """

    new_id: Callable[[], IdT] | None = None
    draws_ids: bool = False
    touch_interval: float = 10.0
    max_states: int = 0
    max_json_bytes: int = 16 * 1024 * 1024
    replace_unstorable: bool = False
    save_states: bool = True
    row_level_security: bool = False
    patches_from: int = 0
    is_cached: bool = False
    reply_seconds: float = 12.0
    wait_seconds: float = 5.0
    telemetry: Telemetry = field(default_factory=Telemetry)


@frozen
class Scope(ABC, Generic[IdT, UserIdT]):
    """One owner's data. Rows of other owners do not exist here.

    This base class reads; ``SessionScope`` writes as well.
    """

    models: Models[IdT, UserIdT]
    owner: UserIdT | AnyUser
    options: StoreOptions[IdT]
    recent: RecentStates

    @property
    def threads(self) -> Table:
        """The table of threads. Core statements on tables bypass the ORM's identity map, and cost less."""
        return table_of(self.models.Thread)

    @property
    def states(self) -> Table:
        """The table of states."""
        return table_of(self.models.State)

    @property
    def messages(self) -> Table:
        """The table of messages."""
        return table_of(self.models.Message)

    @property
    def is_any_user(self) -> bool:
        """Whether the scope is that of administration: the rows of every owner."""
        return self.owner is ANY_USER

    @abstractmethod
    async def execute(self, statement: Executable) -> Result[Any]:
        """Run a statement.

        Raises:
            PersistenceError: the driver's error, translated.
        """

    @abstractmethod
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        """Run a compiled statement with these parameters, and return its rows as named tuples.

        Raises:
            PersistenceError: the driver's error, translated.
        """

    async def write(
        self, statement: Query | CompiledStatement, evidence: Callable[[Any], RowEvidence], **values: Any
    ) -> Sequence[Any]:
        """Run a statement that returns the rows it writes.

        Args:
            statement: if compiled, it returns ``TRANSACTION_MARKS`` too.
            evidence: makes of a returned row what proves afterwards that its transaction was committed.
            values: the parameters of a compiled statement.

        Raises:
            MisuseError: the scope has no transaction.
            PersistenceError: the driver's error, translated.
        """
        raise MisuseError(_NEEDS_TRANSACTION)

    async def lock(self, statement: Query | CompiledStatement, **values: Any) -> Sequence[Any]:
        """Run a query that locks rows of threads; whatever is written below these locks, its commit can be proven.

        Args:
            statement: if compiled, it returns ``TRANSACTION_MARKS`` too.
            values: the parameters of a compiled statement.

        Raises:
            MisuseError: the scope has no transaction.
            PersistenceError: the driver's error, translated.
        """
        raise MisuseError(_NEEDS_TRANSACTION)

    @property
    def can_copy(self) -> bool:
        """Whether ``copy`` works here."""
        return False

    async def copy(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows by COPY, which returns nothing about them.

        Raises:
            MisuseError: the scope has no transaction.
        """
        raise MisuseError(_NEEDS_TRANSACTION)

    def touch(self, state: TouchedState, saved: SavedState | None = None) -> None:
        """Tell the cache of a changed state around the commit; see ``commit_hooks``.

        Raises:
            MisuseError: the scope has no transaction.
        """
        raise MisuseError(_NEEDS_TRANSACTION)

    @property
    def in_unit_of_work(self) -> bool:
        """Whether the statements belong to one transaction."""
        return False

    @property
    def has_snapshot(self) -> bool:
        """Whether a transaction is open, which may see less than has been committed since, and its uncommitted rows."""
        return False

    @property
    def may_be_elsewhere(self) -> bool:
        """Whether the host may have led the statements to other tables than those of the store, by a search path."""
        return False

    def has_touched(self, thread_id: IdT) -> bool:
        """Whether the transaction has changed a thread's state."""
        return False

    def owns(self) -> ColumnElement[bool]:
        """Return the condition that a thread belongs to the owner."""
        return true() if self.is_any_user else self.threads.c.user_id == self.owner

    def thread_of(self, thread_id: IdT) -> ColumnElement[bool]:
        """Return the condition that selects one thread of the owner."""
        return (self.threads.c.thread_id == thread_id) & self.owns()

    def json(self, value: Any, field: str) -> EncodedJSON:
        """Encode a JSON value for a column, after ``clean``.

        Raises:
            InvalidInputError: the value of this field cannot be stored.
        """
        return self.encoded(self.clean(value, field), field)

    def encoded(self, clean: Any, field: str) -> EncodedJSON:
        """Encode a JSON value that was cleaned.

        Raises:
            InvalidInputError: the value of this field cannot be stored.
        """
        return EncodedJSON(encode_json(clean, field, max_bytes=self.options.max_json_bytes))

    def clean(self, value: Any, field: str) -> Any:
        """Return the value, with NUL and lone surrogates replaced where the settings say so."""
        return sanitize(value, field) if self.options.replace_unstorable else value

    def make_id(self) -> IdT | None:
        """Make a new id, or return ``None`` where the database makes ids."""
        return None if self.options.new_id is None else self.options.new_id()

    async def skip_taken(self, column: Column[Any], *within: ColumnElement[bool]) -> None:
        """Advance the sequence past explicitly inserted ids that it collided with.

        Called after a collision, not when an id is given: that would move the sequence to the greatest id of any
        caller, even one that is rolled back. A race can set it back, which costs others one collision more.
        """
        table = ".".join(f'"{part}"' for part in (self.threads.schema, column.table.name) if part)
        sequence = cast(func.pg_get_serial_sequence(table, column.name), REGCLASS)
        last = select(func.pg_sequence_last_value(sequence)).scalar_subquery()  # evaluated once, so an index serves it
        following = func.lead(column).over(order_by=column).label("following")
        run = select(column.label("id"), following).where(column >= last, *within).subquery()
        end = select(func.min(run.c.id)).where(run.c.following.is_(None) | (run.c.following - run.c.id > 1))
        is_taken = select(column).where(column == last, *within).exists()
        every_owner = replace(self, owner=ANY_USER)  # ids of other owners collide too
        await every_owner.execute(select(func.setval(sequence, end.scalar_subquery())).where(is_taken))

    def thread_id(self, value: object) -> IdT:
        """Return a thread id.

        Raises:
            InvalidInputError: it is not an id of the configured type.
        """
        return self.models.id_types.id.validate(value, "thread_id")

    def message_id(self, value: object) -> IdT:
        """Return a message id.

        Raises:
            InvalidInputError: it is not an id of the configured type.
        """
        return self.models.id_types.id.validate(value, "message_id")
