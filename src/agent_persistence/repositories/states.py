"""States: what an agent resumes from, one row a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic

from sqlalchemy import Row, Table, delete, func, select

from agent_persistence.errors import (
    CheckpointingDisabledError,
    InvalidInput,
    StateConflict,
    StateNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.json_values import EncodedJSON
from agent_persistence.records import ANY_USER, Page, SavedState, StateRecord
from agent_persistence.repositories.commit_hooks import TouchedState
from agent_persistence.repositories.cursors import decode_cursor, encode_cursor
from agent_persistence.repositories.proofs import Trace
from agent_persistence.repositories.retention import MAX_KEPT
from agent_persistence.repositories.rows import check_readable, json_object, readable_records
from agent_persistence.repositories.scope import Query, Scope
from agent_persistence.repositories.state_statements import latest_state, save_states, state_columns
from agent_persistence.texts import check_datetime, check_limit

_LISTING: Final = "states"
_MAX_VERSION: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, repr=False)  # its repr would be a user's state
class NewState(Generic[IdT]):
    """A state that was checked and encoded, ready for the table."""

    thread_id: IdT
    owner: Any
    data: Any
    meta: dict[str, Any]
    encoded_data: EncodedJSON
    encoded_meta: EncodedJSON

    @property
    def size(self) -> int:
        """How many bytes are sent."""
        return len(self.encoded_data.utf8) + len(self.encoded_meta.utf8)

    def saved(self, row: Any) -> SavedState:
        """What the cache keeps, once the table has made this row of it."""
        data, meta = self.encoded_data.utf8, self.encoded_meta.utf8
        return SavedState(row.state_id, data, meta, row.created_at, row.updated_at)

    def record(self, row: Any) -> StateRecord[IdT]:
        """What its caller is told."""
        return StateRecord(self.thread_id, row.state_id, self.data, self.meta, row.created_at, row.updated_at)


def prepare_state(scope: Scope[IdT, Any], thread_id: IdT, data: Any, meta: Mapping[str, Any] | None) -> NewState[IdT]:
    """Check and encode a state before any SQL runs.

    Raises:
        InvalidInput: a part of it cannot be stored.
        CheckpointingDisabledError: the settings turned states off.
    """
    if not scope.limits.save_states:
        raise CheckpointingDisabledError
    thread_id = scope.thread_id(thread_id)
    data = scope.clean(data, "data")
    checked_meta: dict[str, Any] = scope.clean(json_object(meta, "meta"), "meta")
    encoded_data, encoded_meta = scope.json(data, "data"), scope.json(checked_meta, "meta")
    return NewState(thread_id, scope.owner, data, checked_meta, encoded_data, encoded_meta)


async def save_state(scope: Scope[IdT, Any], new: NewState[IdT]) -> StateRecord[IdT]:
    """Save what was prepared, in the transaction of a unit of work.

    Raises:
        ThreadNotFoundError: there is no such thread.
    """
    state, limits = scope.states, scope.limits
    of_anybody = scope.owner is ANY_USER
    statement = save_states(scope.models, touch_seconds=limits.touch_interval, of_anybody=of_anybody)
    rows = await scope.write(statement, saved_trace(state), **columns_of_states([new]))
    if not rows:
        raise ThreadNotFoundError(new.thread_id)
    [row] = rows
    scope.touch(TouchedState(new.thread_id, row.owner if of_anybody else scope.owner), new.saved(row))
    if limits.max_states:
        due = state.c.state_id <= newest_to_go(state, new.thread_id, limits.max_states)
        await scope.execute(delete(state).where(state.c.thread_id == new.thread_id, due))
    return new.record(row)


def newest_to_go(state: Table, thread_id: Any, keep: int) -> Any:
    """The newest version of a thread that is not among the last ones to keep."""
    return (
        select(state.c.state_id)
        .where(state.c.thread_id == thread_id)
        .order_by(state.c.state_id.desc())
        .offset(keep)
        .limit(1)
        .scalar_subquery()
    )


def columns_of_states(states: Sequence[NewState[Any]]) -> dict[str, list[Any]]:
    """The parameters of ``save_states``."""
    return {
        "thread_ids": [state.thread_id for state in states],
        "owners": [None if state.owner is ANY_USER else state.owner for state in states],
        "state_data": [state.encoded_data for state in states],
        "meta": [state.encoded_meta for state in states],
    }


def saved_trace(table: Table) -> Callable[[Any], Trace]:
    """What shows that a state was committed."""

    def trace(row: Any) -> Trace:
        return Trace(table, {"thread_id": row.thread_id, "state_id": row.state_id}, ("created_at", row.created_at))

    return trace


class StateRepository(Generic[IdT, UserIdT]):
    """The states of one owner's threads."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._state = scope.states
        self._thread = scope.threads

    async def put(
        self,
        thread_id: IdT,
        data: Any,
        *,
        meta: Mapping[str, Any] | None = None,
        expected_version: int | None = None,
    ) -> StateRecord[IdT]:
        """Save a state as the thread's latest.

        Args:
            data: any JSON value.
            expected_version: save only if this is still the latest version (0: the thread has no state yet).

        Raises:
            ThreadNotFoundError: there is no such thread.
            StateConflict: ``expected_version`` is not the latest version.
            CheckpointingDisabledError: the settings turned states off.
        """
        scope, new = self._scope, prepare_state(self._scope, thread_id, data, meta)
        if expected_version is not None:
            await self._expect(new.thread_id, check_version(expected_version, "expected_version"))
        return await save_state(scope, new)

    async def get(self, thread_id: IdT) -> StateRecord[IdT] | None:
        """Return the thread's latest state from the table, or ``None``."""
        scope = self._scope
        statement = latest_state(scope.models, of_anybody=scope.owner is ANY_USER)
        rows = await scope.fetch(statement, thread_id=scope.thread_id(thread_id), owner=scope.owner)
        return state_record(rows[0]) if rows else None

    async def require(self, thread_id: IdT) -> StateRecord[IdT]:
        """Return the thread's latest state.

        Raises:
            StateNotFoundError: there is none.
        """
        state = await self.get(thread_id)
        if state is None:
            raise StateNotFoundError(thread_id)
        return state

    async def get_version(self, thread_id: IdT, version: int) -> StateRecord[IdT] | None:
        """Return one version of the thread's state, or ``None``."""
        statement = self._select(thread_id).where(self._state.c.state_id == check_version(version, "version"))
        row = (await self._scope.execute(statement)).one_or_none()
        return None if row is None else state_record(row)

    async def page(self, thread_id: IdT, *, limit: int = 20, after: str | None = None) -> Page[StateRecord[IdT]]:
        """List a thread's states, the latest first; ``page.after`` leads on to older ones."""
        check_limit(limit, "limit", 1000)
        statement = self._select(thread_id).order_by(self._state.c.state_id.desc()).limit(limit + 1)
        if after is not None:
            version = decode_cursor(after, _LISTING, "after", lambda version: check_version(version, "after"))
            statement = statement.where(self._state.c.state_id < version)
        rows = (await self._scope.execute(statement)).all()
        items, corrupt = readable_records(rows[:limit], state_record)
        more = encode_cursor(_LISTING, rows[limit - 1].state_id) if len(rows) > limit else None
        return Page(items, None, more, corrupt)

    async def clear(self, thread_id: IdT) -> int:
        """Delete every state of a thread; say how many there were.

        Raises:
            ThreadNotFoundError: there is no such thread.
        """
        owner, deleted = await self._delete(thread_id, self._state.c.state_id > 0)
        if deleted:
            self._scope.touch(TouchedState(thread_id, owner))
        return deleted

    async def prune(self, thread_id: IdT, *, keep_last: int | None = None, older_than: datetime | None = None) -> int:
        """Delete old states of a thread; say how many. The latest state always stays.

        Args:
            keep_last: keep so many of the newest (at least 1).
            older_than: delete only what was saved before this time.

        Raises:
            InvalidInput: neither is given.
            ThreadNotFoundError: there is no such thread.
        """
        if keep_last is None and older_than is None:
            raise InvalidInput("keep_last", "give keep_last, older_than or both")
        keep = 1 if keep_last is None else check_limit(keep_last, "keep_last", MAX_KEPT)
        thread_id = self._scope.thread_id(thread_id)
        due = self._state.c.state_id <= newest_to_go(self._state, thread_id, keep)
        if older_than is not None:
            due &= self._state.c.created_at < check_datetime(older_than, "older_than")
        _, deleted = await self._delete(thread_id, due)
        return deleted

    async def touch(self, thread_id: IdT) -> None:
        """Say that this transaction changes the thread's states by other means than this package: by SQL of your own.

        Call it in the same transaction: the thread's row is locked, and its cached state is gone with the commit.

        Raises:
            ThreadNotFoundError: there is no such thread.
        """
        thread_id = self._scope.thread_id(thread_id)
        self._scope.touch(TouchedState(thread_id, await self._lock(thread_id)))

    async def _lock(self, thread_id: IdT) -> UserIdT:
        """Lock a thread of the owner, and say whose it is."""
        locked = (await self._scope.execute(self._scope.lock_thread(thread_id))).one_or_none()
        if locked is None:
            raise ThreadNotFoundError(thread_id)
        owner: UserIdT = locked.user_id
        return owner

    async def _expect(self, thread_id: IdT, expected: int) -> None:
        """Lock first, compare after: a snapshot older than the lock could miss the version that it has to see."""
        isolation = func.current_setting("transaction_isolation").label("isolation")
        locked = (await self._scope.execute(self._scope.lock_thread(thread_id).add_columns(isolation))).one_or_none()
        if locked is None:
            raise ThreadNotFoundError(thread_id)
        if locked.isolation != "read committed":
            raise InvalidInput("expected_version", "needs READ COMMITTED: this transaction cannot see what came since")
        latest = select(func.coalesce(func.max(self._state.c.state_id), 0)).where(self._state.c.thread_id == thread_id)
        found = (await self._scope.execute(latest)).scalar_one()
        if found != expected:
            raise StateConflict(thread_id, expected, found)

    async def _delete(self, thread_id: IdT, due: Any) -> tuple[UserIdT, int]:
        thread_id = self._scope.thread_id(thread_id)
        owner = await self._lock(thread_id)
        states = self._state
        statement = delete(states).where(states.c.thread_id == thread_id, due).returning(states.c.state_id)
        rows = await self._scope.write(statement, self._gone(thread_id))
        return owner, len(rows)

    def _gone(self, thread_id: IdT) -> Callable[[Row[Any]], Trace]:
        return lambda row: Trace(self._state, {"thread_id": thread_id, "state_id": row.state_id})

    def _select(self, thread_id: IdT) -> Query:
        state, thread = self._state, self._thread
        return (
            select(*state_columns(state))
            .join(thread, thread.c.thread_id == state.c.thread_id)
            .where(state.c.thread_id == self._scope.thread_id(thread_id), self._scope.owns())
        )


def state_record(row: Any) -> StateRecord[Any]:
    """Make a record of a row with ``state_columns``.

    Raises:
        CorruptRow: a part of it cannot be read.
    """
    check_readable("states", (row.thread_id, row.state_id), row, row.created_at, row.updated_at)
    return StateRecord(row.thread_id, row.state_id, row.state_data, row.meta, row.created_at, row.updated_at)


def check_version(value: object, field: str) -> int:
    """Return the version of a state; 0 stands for none yet.

    Raises:
        InvalidInput: not an int (``True`` is none), or none that the database could have made.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidInput(field, f"must be an int, not {type(value).__name__}")
    if not 0 <= value <= _MAX_VERSION:
        raise InvalidInput(field, "is outside the range of versions")
    return value
