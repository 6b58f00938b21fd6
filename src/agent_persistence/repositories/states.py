"""States: what an agent resumes from, one row a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Generic

from sqlalchemy import CTE, Row, delete, func, insert, literal, select

from agent_persistence.errors import (
    CheckpointingDisabledError,
    InvalidInput,
    StateConflict,
    StateNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.json_values import EncodedJSON
from agent_persistence.records import Page, SavedState, StateRecord
from agent_persistence.repositories.commit_hooks import TouchedState, touch
from agent_persistence.repositories.cursors import decode_cursor, encode_cursor
from agent_persistence.repositories.proofs import Trace
from agent_persistence.repositories.retention import MAX_KEPT
from agent_persistence.repositories.rows import check_readable, json_object, readable, readable_records
from agent_persistence.repositories.scope import Query, Scope
from agent_persistence.texts import check_datetime, check_limit

_LISTING: Final = "states"
_MAX_VERSION: Final = 2**63 - 1


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
        if not self._scope.limits.save_states:
            raise CheckpointingDisabledError
        thread_id = self._scope.thread_id(thread_id)
        data = self._scope.clean(data, "data")
        checked_meta: dict[str, Any] = self._scope.clean(json_object(meta, "meta"), "meta")
        encoded_data, encoded_meta = self._scope.json(data, "data"), self._scope.json(checked_meta, "meta")
        if expected_version is not None:
            await self._expect(thread_id, check_version(expected_version, "expected_version"))
        rows = await self._scope.write(self._insert(thread_id, encoded_data, encoded_meta), self._saved(thread_id))
        if not rows:
            raise ThreadNotFoundError(thread_id)
        [row] = rows
        saved = SavedState(row.state_id, encoded_data.utf8, encoded_meta.utf8, row.created_at, row.updated_at)
        touch(self._scope.session.sync_session, TouchedState(thread_id, row.user_id), saved)
        await self._keep_last(thread_id, self._scope.limits.max_states)
        return StateRecord(thread_id, row.state_id, data, checked_meta, row.created_at, row.updated_at)

    async def get(self, thread_id: IdT) -> StateRecord[IdT] | None:
        """Return the thread's latest state from the table, or ``None``."""
        statement = self._select(thread_id).order_by(self._state.c.state_id.desc()).limit(1)
        row = (await self._scope.execute(statement)).one_or_none()
        return None if row is None else self._record(row)

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
        return None if row is None else self._record(row)

    async def page(self, thread_id: IdT, *, limit: int = 20, after: str | None = None) -> Page[StateRecord[IdT]]:
        """List a thread's states, the latest first; ``page.after`` leads on to older ones."""
        check_limit(limit, "limit", 1000)
        statement = self._select(thread_id).order_by(self._state.c.state_id.desc()).limit(limit + 1)
        if after is not None:
            version = decode_cursor(after, _LISTING, "after", lambda version: check_version(version, "after"))
            statement = statement.where(self._state.c.state_id < version)
        rows = (await self._scope.execute(statement)).all()
        items, corrupt = readable_records(rows[:limit], self._record)
        more = encode_cursor(_LISTING, rows[limit - 1].state_id) if len(rows) > limit else None
        return Page(items, None, more, corrupt)

    async def clear(self, thread_id: IdT) -> int:
        """Delete every state of a thread; say how many there were.

        Raises:
            ThreadNotFoundError: there is no such thread.
        """
        owner, deleted = await self._delete(thread_id, self._state.c.state_id > 0)
        if deleted:
            touch(self._scope.session.sync_session, TouchedState(thread_id, owner))
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
        due = self._state.c.state_id <= self._newest_to_go(thread_id, keep)
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
        touch(self._scope.session.sync_session, TouchedState(thread_id, await self._lock(thread_id)))

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

    def _insert(self, thread_id: IdT, data: EncodedJSON, meta: EncodedJSON) -> Any:
        """Lock the thread, move its activity and add a state, in one round trip."""
        locked = self._scope.locked_thread(thread_id)
        state = self._state
        values = select(locked.c.thread_id, literal(data, state.c.state_data.type), literal(meta, state.c.meta.type))
        return (
            insert(state)
            .from_select(["thread_id", "state_data", "meta"], values, include_defaults=False)
            .add_cte(locked, self._scope.touched_thread(locked))
            .returning(state.c.state_id, state.c.created_at, state.c.updated_at, _owner_of(locked))
        )

    async def _keep_last(self, thread_id: IdT, count: int) -> None:
        if count:
            due = self._state.c.state_id <= self._newest_to_go(thread_id, count)
            await self._scope.execute(delete(self._state).where(self._state.c.thread_id == thread_id, due))

    def _newest_to_go(self, thread_id: IdT, keep: int) -> Any:
        return (
            select(self._state.c.state_id)
            .where(self._state.c.thread_id == thread_id)
            .order_by(self._state.c.state_id.desc())
            .offset(keep)
            .limit(1)
            .scalar_subquery()
        )

    async def _delete(self, thread_id: IdT, due: Any) -> tuple[UserIdT, int]:
        thread_id = self._scope.thread_id(thread_id)
        owner = await self._lock(thread_id)
        states = self._state
        statement = delete(states).where(states.c.thread_id == thread_id, due).returning(states.c.state_id)
        rows = await self._scope.write(statement, self._gone(thread_id))
        return owner, len(rows)

    def _saved(self, thread_id: IdT) -> Callable[[Row[Any]], Trace]:
        return lambda row: Trace(
            self._state, {"thread_id": thread_id, "state_id": row.state_id}, ("created_at", row.created_at)
        )

    def _gone(self, thread_id: IdT) -> Callable[[Row[Any]], Trace]:
        return lambda row: Trace(self._state, {"thread_id": thread_id, "state_id": row.state_id})

    def _select(self, thread_id: IdT) -> Query:
        state, thread = self._state, self._thread
        return (
            select(
                state.c.thread_id,
                state.c.state_id,
                state.c.state_data,
                state.c.meta,
                readable(state.c.created_at),
                readable(state.c.updated_at),
            )
            .join(thread, thread.c.thread_id == state.c.thread_id)
            .where(state.c.thread_id == self._scope.thread_id(thread_id), self._scope.owns())
        )

    def _record(self, row: Row[Any]) -> StateRecord[IdT]:
        check_readable("states", (row.thread_id, row.state_id), row)
        return StateRecord(
            thread_id=row.thread_id,
            version=row.state_id,
            data=row.state_data,
            meta=row.meta,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


def _owner_of(locked: CTE) -> Any:
    return select(locked.c.user_id).scalar_subquery().label("user_id")


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
