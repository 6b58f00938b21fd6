"""Rows as objects of the mapped classes, for hosts that use SQLAlchemy's ORM; by statements built once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Generic

from sqlalchemy import bindparam, literal_column, select, true
from sqlalchemy.orm.attributes import set_committed_value

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import MessageMixin, Models, StateMixin, ThreadMixin
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.states.repository import StateRepository
from agent_persistence.sessions.scope import Query
from agent_persistence.sessions.session_scope import SessionScope
from agent_persistence.validation import check_limit


class EntityRepository(Generic[IdT, UserIdT]):
    """One owner's rows as objects of the mapped classes, read from the database and not from the cache.

    SQLAlchemy takes as long to build such a query as to run it, so each is built once.
    """

    def __init__(self, scope: SessionScope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._of_any_user = scope.owner is ANY_USER

    async def get_thread(self, thread_id: IdT) -> ThreadMixin[IdT, UserIdT] | None:
        """Return a thread, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        found = await self._load(_thread(self._scope.models, of_any_user=self._of_any_user), thread_id)
        return found[0] if found else None

    async def get_latest_state(self, thread_id: IdT) -> StateMixin[IdT] | None:
        """Return a thread's latest state with all of its ``state_data``, or ``None``.

        ``state_data`` is complete even where the row holds only what changed since another version.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the stored state cannot be read.
        """
        found = await self._load(_latest_state(self._scope.models, of_any_user=self._of_any_user), thread_id)
        if not found:
            return None
        state: StateMixin[IdT] = found[0]
        if state.base_id is not None:
            whole = await StateRepository(self._scope).get_version(thread_id, state.state_id)
            if whole is None:  # deleted between two statements, so no longer the latest
                return await self.get_latest_state(thread_id)
            # As a loaded value, not as a change: the next flush must not write it.
            set_committed_value(state, "state_data", whole.data)
        return state

    async def get_last_messages(self, thread_id: IdT, *, limit: int = 50) -> Sequence[MessageMixin[IdT]]:
        """Return the newest messages of a thread, the oldest of them first. Asides are left out.

        Args:
            thread_id: the thread; no messages if it does not exist.
            limit: how many at most, 1 to 1,000.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        wanted = check_limit(limit, "limit", 1000)
        statement = _last_messages(self._scope.models, of_any_user=self._of_any_user)
        return (await self._load(statement, thread_id, wanted=wanted))[::-1]

    async def _load(self, statement: Query, thread_id: IdT, **values: Any) -> Sequence[Any]:
        of_owner = {} if self._of_any_user else {"owner": self._scope.owner}
        return await self._scope.entities(statement, thread_id=self._scope.thread_id(thread_id), **of_owner, **values)


@lru_cache(MODELS_AT_ONCE)
def _thread(models: Models[Any, Any], *, of_any_user: bool) -> Query:
    return select(models.Thread).where(
        models.Thread.thread_id == bindparam("thread_id"), _owns(models, of_any_user=of_any_user)
    )


@lru_cache(MODELS_AT_ONCE)
def _latest_state(models: Models[Any, Any], *, of_any_user: bool) -> Query:
    return (
        _of_thread(models, models.State, of_any_user=of_any_user)
        .order_by(models.State.state_id.desc())
        .limit(literal_column("1"))
    )


@lru_cache(MODELS_AT_ONCE)
def _last_messages(models: Models[Any, Any], *, of_any_user: bool) -> Query:
    messages = _of_thread(models, models.Message, of_any_user=of_any_user).where(models.Message.aside.is_(None))
    return messages.order_by(models.Message.seq.desc()).limit(bindparam("wanted"))


def _of_thread(models: Models[Any, Any], rows: Any, *, of_any_user: bool) -> Query:
    return (
        select(rows)
        .join(models.Thread, models.Thread.thread_id == rows.thread_id)
        .where(rows.thread_id == bindparam("thread_id"), _owns(models, of_any_user=of_any_user))
    )


def _owns(models: Models[Any, Any], *, of_any_user: bool) -> Any:
    return true() if of_any_user else models.Thread.user_id == bindparam("owner")
