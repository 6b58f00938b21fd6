"""What the three repositories of a unit of work have in common: models, owner, limits, and where statements run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final, Generic

from sqlalchemy import (
    CTE,
    Column,
    ColumnElement,
    Executable,
    Result,
    Table,
    cast,
    func,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import REGCLASS

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.encoding.exact_json import EncodedJSON, encode_json, sanitize
from agent_persistence.encoding.recent_states import RecentStates
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.records import ANY_USER, AnyUser, SavedState, TouchedState
from agent_persistence.sessions.commit_evidence import RowEvidence

DRAWS: Final = 10
"""How often the database is asked for an id that nobody has taken; each time a run of taken ones is skipped."""

Query = Any
"""A SELECT. Its class is generic over one tuple in SQLAlchemy 2.0, over the columns in 2.1: no spelling fits both."""


@frozen
class StoreOptions(Generic[IdT]):
    """Choices of the settings that repositories obey.

    Attributes:
        new_id: makes ids in Python; ``None`` where the database makes them.
        draws_ids: these are random, so that nobody else can have one of them.
        touch_interval: a thread's ``updated_at`` moves at most so often, in seconds.
        max_states: a thread keeps so many of its newest states; 0 keeps all.
        max_json_bytes: no JSON value may be longer, encoded.
        replace_unstorable: replace NUL and lone surrogates instead of refusing them.
        save_states: ``False`` refuses to save states.
        row_level_security: name the owner to the database before its rows are asked for.
        patches_from: states of so many bytes and more are kept as what changed; 0 keeps all of them whole.
        is_cached: whether a cache is told of states.
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


@frozen
class Scope(ABC, Generic[IdT, UserIdT]):
    """One owner's data. Everything else does not exist here."""

    models: Models[IdT, UserIdT]
    owner: UserIdT | AnyUser
    limits: StoreOptions[IdT]
    recent: RecentStates

    @property
    def threads(self) -> Table:
        """The table of threads. Statements are Core ones: they pass the identity map by, and cost less."""
        return table_of(self.models.Thread)

    @property
    def states(self) -> Table:
        """The table of states."""
        return table_of(self.models.State)

    @property
    def messages(self) -> Table:
        """The table of messages."""
        return table_of(self.models.Message)

    @abstractmethod
    async def execute(self, statement: Executable) -> Result[Any]:
        """Run a statement; driver errors leave in our own words."""

    @abstractmethod
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        """Run a statement that was compiled before; its rows have the names of its columns."""

    @abstractmethod
    async def write(
        self, statement: Query | CompiledStatement, trace: Callable[[Any], RowEvidence], **values: Any
    ) -> Sequence[Any]:
        """Run a statement that returns the rows it writes.

        Args:
            statement: where it is compiled, it returns ``MARKS`` as well.
            values: of the parameters of a compiled statement.
            trace: what shows of such a row that its transaction was committed.
        """

    @property
    @abstractmethod
    def can_copy(self) -> bool:
        """Whether ``copy`` works here."""

    @abstractmethod
    async def copy(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows by COPY, which tells nothing of them."""

    @abstractmethod
    def touch(self, state: TouchedState, saved: SavedState | None = None) -> None:
        """Have the cache told of a changed state around the commit; see ``commit_hooks``."""

    @property
    @abstractmethod
    def in_unit_of_work(self) -> bool:
        """Whether its statements belong to one transaction."""

    @property
    @abstractmethod
    def has_snapshot(self) -> bool:
        """Whether a transaction is open, which may see less than has been committed since, and more than others do."""

    @abstractmethod
    def has_touched(self, thread_id: IdT) -> bool:
        """Whether the transaction has changed the state of a thread."""

    def owns(self) -> ColumnElement[bool]:
        """The condition that a thread belongs to the owner."""
        if self.owner is ANY_USER:
            return true()
        return self.threads.c.user_id == self.owner

    def thread_of(self, thread_id: IdT) -> ColumnElement[bool]:
        """The condition that picks one thread of the owner."""
        return (self.threads.c.thread_id == thread_id) & self.owns()

    def locked_thread(self, thread_id: IdT) -> CTE:
        """Lock the thread's row until the transaction ends; empty where it is not the owner's.

        Whatever numbers a statement draws below this lock are in the order of commits.
        """
        locked: CTE = self.lock_thread(thread_id).cte("locked")
        return locked

    def lock_thread(self, thread_id: IdT) -> Query:
        """Select one thread of the owner FOR NO KEY UPDATE, which lets foreign-key checks of others pass."""
        thread = self.threads
        return (
            select(thread.c.thread_id, thread.c.user_id)
            .where(self.thread_of(thread_id))
            .with_for_update(key_share=True)
        )

    def touched_thread(self, locked: CTE) -> CTE:
        """Move the locked thread's ``updated_at``, at most once an interval: it is indexed, so each move costs."""
        thread = self.threads
        due = func.now() - timedelta(seconds=self.limits.touch_interval)
        return (
            update(thread)
            .where(thread.c.thread_id == locked.c.thread_id, thread.c.updated_at <= due)
            .values(updated_at=func.now())
            .cte("touched")
        )

    def json(self, value: Any, field: str) -> EncodedJSON:
        """Encode a JSON value for a column, or refuse it by name."""
        return self.encoded(self.clean(value, field), field)

    def encoded(self, clean: Any, field: str) -> EncodedJSON:
        """Encode a JSON value that is clean already."""
        return EncodedJSON(encode_json(clean, field, max_bytes=self.limits.max_json_bytes))

    def clean(self, value: Any, field: str) -> Any:
        """Return the value, with what PostgreSQL cannot store replaced where the settings say so."""
        return sanitize(value, field) if self.limits.replace_unstorable else value

    def make_id(self) -> IdT | None:
        """Make a new id, or ``None`` where the database will."""
        return None if self.limits.new_id is None else self.limits.new_id()

    async def skip_taken(self, column: Column[Any], *within: ColumnElement[bool]) -> None:
        """Move the database's numbering past a run of ids that were given by hand and that it has run into.

        Called after a collision, not when an id is given: that would leave the numbering where somebody's greatest id
        is, even if it was rolled back. Setting it back by a race with others costs them a collision, no more.
        """
        table = ".".join(f'"{part}"' for part in (self.threads.schema, column.table.name) if part)
        counter = cast(func.pg_get_serial_sequence(table, column.name), REGCLASS)
        last = select(func.pg_sequence_last_value(counter)).scalar_subquery()  # evaluated once, so an index serves it
        following = func.lead(column).over(order_by=column).label("following")
        run = select(column.label("id"), following).where(column >= last, *within).subquery()
        end = select(func.min(run.c.id)).where(run.c.following.is_(None) | (run.c.following - run.c.id > 1))
        is_taken = select(column).where(column == last, *within).exists()
        everybodys = replace(self, owner=ANY_USER)  # an owner does not see the ids of others, and runs into them
        await everybodys.execute(select(func.setval(counter, end.scalar_subquery())).where(is_taken))

    def thread_id(self, value: object) -> IdT:
        """Return a thread id, or refuse it."""
        return self.models.id_types.id.validate(value, "thread_id")

    def message_id(self, value: object) -> IdT:
        """Return a message id, or refuse it."""
        return self.models.id_types.id.validate(value, "message_id")
