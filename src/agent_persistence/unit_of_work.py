"""One owner's threads, messages and states in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.cache import CachedStates
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.repositories import MessageRepository, ThreadRepository


@dataclass(frozen=True, slots=True)
class UnitOfWork(Generic[IdT, UserIdT]):
    """Three repositories over one session, scoped to one owner. What belongs to somebody else does not exist here.

    Attributes:
        session: the session that they share; work of the host's own in it commits or rolls back with theirs.
    """

    threads: ThreadRepository[IdT, UserIdT]
    messages: MessageRepository[IdT, UserIdT]
    states: CachedStates[IdT, UserIdT]
    session: AsyncSession
