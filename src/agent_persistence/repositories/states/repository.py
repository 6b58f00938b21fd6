"""The states of a thread, one row a version; an agent resumes from the latest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Generic

from sqlalchemy import select

from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.encoding.recent_states import RecentState
from agent_persistence.errors import (
    CorruptRowError,
    InvalidInputError,
    StateConflictError,
    StateNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import ANY_USER, Page, StateRecord, TouchedState
from agent_persistence.repositories.locks import lock_thread, parameters_of
from agent_persistence.repositories.maintenance.clock import moment_of
from agent_persistence.repositories.states.prepared import PreparedState, columns_of_states, prepare_state
from agent_persistence.repositories.states.retention import MAX_KEPT
from agent_persistence.repositories.states.rows import lacks_contents, latest_record, readable_state, whole_states
from agent_persistence.repositories.states.statements import (
    delete_due,
    known_states,
    latest_state,
    latest_version,
    lock_to_compare,
    save_states,
    state_columns,
)
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import Query, Scope
from agent_persistence.validation import check_age, check_limit, check_version

_LISTING: Final = "states"


async def save_state(scope: Scope[IdT, Any], new: PreparedState[IdT]) -> StateRecord[IdT]:
    """Save a prepared state, in the transaction of a unit of work.

    Raises:
        ThreadNotFoundError: the thread does not exist.
    """
    row = await _save(scope, new)
    # No row: the thread is missing, or the base was rewritten, deleted or rolled back. The second try needs no base and
    # tells the two apart.
    if row is None and new.change is not None:
        new = new.whole()
        row = await _save(scope, new)
    if row is None:
        raise ThreadNotFoundError(new.thread_id)
    owner = row.owner if scope.owner is ANY_USER else scope.owner
    scope.touch(TouchedState(new.thread_id, owner), new.saved(row) if scope.options.is_cached else None)
    # In the same transaction, below the same lock: a thread never holds more states than configured, and no background
    # job has to follow.
    await keep_newest(scope, new.thread_id)
    new.remember(scope.recent, row)
    return new.record(row)


async def keep_newest(scope: Scope[IdT, Any], thread_id: IdT) -> None:
    """Delete the states of a locked thread that exceed the configured number."""
    if scope.options.max_states:
        await scope.fetch(delete_due(scope.models, keeps=True), thread_id=thread_id, keep=scope.options.max_states)


async def _save(scope: Scope[IdT, Any], new: PreparedState[IdT]) -> Any:
    """Insert a state; return ``None`` if its thread, or the version that it is a change of, does not exist."""
    of_any_user, changes = scope.owner is ANY_USER, new.change is not None
    statement = save_states(
        scope.models, touch_seconds=scope.options.touch_interval, changes=changes, of_any_user=of_any_user, one=True
    )
    rows = await scope.write(
        statement,
        row_evidence(scope.states, "thread_id", "state_id", time="created_at"),
        **columns_of_states([new], changes=changes, one=True),
    )
    return rows[0] if rows else None


async def expect_version(scope: Scope[IdT, Any], thread_id: IdT, expected: int) -> None:
    """Lock a thread, and compare its latest version.

    Two statements: a snapshot that is older than the lock could miss the version that the comparison must see.

    Raises:
        InvalidInputError: the transaction is not READ COMMITTED.
        ThreadNotFoundError: the thread does not exist.
        StateConflictError: ``expected`` is not its latest version.
    """
    lock = lock_to_compare(scope.models, of_any_user=scope.owner is ANY_USER)
    locked = await scope.fetch(lock, thread_ids=thread_id, owners=scope.owner)
    if not locked:
        raise ThreadNotFoundError(thread_id)
    if locked[0].isolation != "read committed":
        raise InvalidInputError("expected_version", "needs READ COMMITTED: this transaction cannot see later commits")
    (latest,) = await scope.fetch(latest_version(scope.models), thread_id=thread_id)
    if latest.version != expected:
        raise StateConflictError(thread_id, expected, latest.version)


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
            thread_id: the thread.
            data: any JSON value.
            meta: a JSON object.
            expected_version: save only if this is still the latest version (0: the thread has no state yet).

        Returns:
            The state with its new version.

        Raises:
            InvalidInputError: a part of it cannot be stored; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            StateConflictError: ``expected_version`` is not the latest version.
            CheckpointingDisabledError: the settings refuse states.
        """
        scope, new = self._scope, prepare_state(self._scope, thread_id, data, meta)
        if expected_version is not None:
            await expect_version(scope, new.thread_id, check_version(expected_version, "expected_version"))
        return await save_state(scope, new)

    async def get(self, thread_id: IdT) -> StateRecord[IdT] | None:
        """Return a thread's latest state from the table, or ``None``.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the stored state cannot be read.
        """
        thread_id = self._scope.thread_id(thread_id)
        known = self._scope.recent.get(thread_id)
        rows = await self._latest(thread_id, known, knows=known is not None)
        if rows and lacks_contents(rows[0], knows=known is not None):
            rows = await self._latest(thread_id, None, knows=True)
        return readable_state(latest_record(rows[0], known)) if rows else None

    async def _latest(self, thread_id: IdT, known: RecentState | None, *, knows: bool) -> Sequence[Any]:
        scope = self._scope
        statement = latest_state(scope.models, of_any_user=scope.owner is ANY_USER, knows=knows)
        named = parameters_of(known_states([known]), one=True) if knows else {}
        return await scope.fetch(statement, thread_id=thread_id, owner=scope.owner, **named)

    async def require(self, thread_id: IdT) -> StateRecord[IdT]:
        """Return a thread's latest state.

        Raises:
            InvalidInputError: the id is not of the configured type.
            StateNotFoundError: the thread has no state, or does not exist.
            CorruptRowError: the stored state cannot be read.
        """
        state = await self.get(thread_id)
        if state is None:
            raise StateNotFoundError(thread_id)
        return state

    async def get_version(self, thread_id: IdT, version: int) -> StateRecord[IdT] | None:
        """Return one version of a thread's state, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored state cannot be read.
        """
        statement = self._select(thread_id).where(self._state.c.state_id == check_version(version, "version"))
        rows = (await self._scope.execute(statement)).all()
        found = await whole_states(self._scope.fetch, self._scope.models, rows)
        return readable_state(found[0]) if found else None

    async def page(self, thread_id: IdT, *, limit: int = 20, after: str | None = None) -> Page[StateRecord[IdT]]:
        """List a thread's states, the latest first.

        Args:
            thread_id: the thread; an empty page if it does not exist.
            limit: how many at most, 1 to 1,000.
            after: ``after`` of the previous page; the first page if left out.

        Returns:
            A page; rows that cannot be read are in its ``corrupt``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        check_limit(limit, "limit", 1000)
        # The row beyond the limit tells whether there is a next page, without a count.
        statement = self._select(thread_id).order_by(self._state.c.state_id.desc()).limit(limit + 1)
        if after is not None:
            version = decode_cursor(after, _LISTING, "after", partial(check_version, field="after"))
            statement = statement.where(self._state.c.state_id < version)
        rows = (await self._scope.execute(statement)).all()
        found = await whole_states(self._scope.fetch, self._scope.models, rows[:limit])
        items = tuple(state for state in found if isinstance(state, StateRecord))
        corrupt = tuple(state for state in found if isinstance(state, CorruptRowError))
        more = encode_cursor(_LISTING, rows[limit - 1].state_id) if len(rows) > limit else None
        return Page(items, None, more, corrupt)

    async def clear(self, thread_id: IdT) -> int:
        """Delete all states of a thread; return their number.

        Raises:
            InvalidInputError: the id is not of the configured type.
            ThreadNotFoundError: the thread does not exist.
        """
        owner, deleted = await self._delete(thread_id)
        if deleted:
            self._scope.touch(TouchedState(thread_id, owner))
        return deleted

    async def prune(
        self, thread_id: IdT, *, keep_last: int | None = None, older_than: datetime | timedelta | None = None
    ) -> int:
        """Delete old states of a thread; return their number. The latest state is never deleted.

        Args:
            thread_id: the thread.
            keep_last: how many of the newest stay, at least 1.
            older_than: delete only states that were saved longer ago by the database's clock, or before a time with
                a time zone.

        Raises:
            InvalidInputError: neither is given, or one cannot be valid.
            ThreadNotFoundError: the thread does not exist.
        """
        if keep_last is None and older_than is None:
            raise InvalidInputError("keep_last", "give keep_last, older_than or both")
        keep = 1 if keep_last is None else check_limit(keep_last, "keep_last", MAX_KEPT)
        age = None if older_than is None else check_age(older_than, "older_than")
        before = await moment_of(age, self._scope)
        _, deleted = await self._delete(thread_id, keep=keep, before=before)
        return deleted

    async def touch(self, thread_id: IdT) -> None:
        """Report that SQL of yours changes the thread's states in this transaction.

        The thread's row is locked, and its cached state is invalidated with the commit.

        Raises:
            InvalidInputError: the id is not of the configured type.
            ThreadNotFoundError: the thread does not exist.
        """
        thread_id = self._scope.thread_id(thread_id)
        self._scope.touch(TouchedState(thread_id, await lock_thread(self._scope, thread_id)))

    async def _delete(
        self, thread_id: IdT, *, keep: int | None = None, before: datetime | None = None
    ) -> tuple[UserIdT, int]:
        scope, thread_id = self._scope, self._scope.thread_id(thread_id)
        owner = await lock_thread(scope, thread_id)
        # After the lock, by a statement of its own: its snapshot must show every version that rests on a deleted one.
        statement = delete_due(scope.models, keeps=keep is not None, ages=before is not None)
        evidence = row_evidence(self._state, "thread_id", "state_id")
        rows = await scope.write(statement, evidence, thread_id=thread_id, keep=keep, before=before)
        return owner, len(rows)

    def _select(self, thread_id: IdT) -> Query:
        state, thread = self._state, self._thread
        return (
            select(*state_columns(state))
            .join(thread, thread.c.thread_id == state.c.thread_id)
            .where(state.c.thread_id == self._scope.thread_id(thread_id), self._scope.owns())
        )
