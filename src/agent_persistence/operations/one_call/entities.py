"""``EntityRepository``, one call at a time."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Generic

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import MessageMixin, StateMixin, ThreadMixin
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import AnyUser
from agent_persistence.repositories import EntityRepository


class OneCallEntities(Generic[IdT, UserIdT]):
    """``EntityRepository``, one call at a time; the objects are detached, and ``session.add`` attaches them.

    Each method takes ``user_id``: the owner, or ``ANY_USER`` for administration.
    """

    def __init__(self, transactions: Transactions[IdT, UserIdT]) -> None:
        self._read = transactions.read_entities

    async def get_thread(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> ThreadMixin[IdT, UserIdT] | None:
        """Return a thread, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        return await self._read(
            partial(EntityRepository[IdT, UserIdT].get_thread, thread_id=thread_id), user_id=user_id
        )

    async def get_latest_state(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> StateMixin[IdT] | None:
        """Return a thread's latest state with all of its ``state_data``, or ``None``.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the stored state cannot be read.
        """
        return await self._read(
            partial(EntityRepository[IdT, UserIdT].get_latest_state, thread_id=thread_id), user_id=user_id
        )

    async def get_last_messages(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, limit: int = 50
    ) -> Sequence[MessageMixin[IdT]]:
        """Return the newest messages of a thread, the oldest of them first. Asides are left out.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            limit: how many at most, 1 to 1,000.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        read = partial(EntityRepository[IdT, UserIdT].get_last_messages, thread_id=thread_id, limit=limit)
        return await self._read(read, user_id=user_id)
