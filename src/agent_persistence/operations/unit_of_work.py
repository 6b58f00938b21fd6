"""One owner's threads, messages and states in one transaction."""

from __future__ import annotations

from dataclasses import field
from typing import Generic

from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.repositories import (
    CheckpointRepository,
    EntityRepository,
    MessageRepository,
    ThreadRepository,
    ToolResultRepository,
)
from agent_persistence.sessions.sharing import share


@frozen
class Repositories(Generic[IdT, UserIdT]):
    """The repositories, scoped to one owner. What belongs to somebody else does not exist here."""

    threads: ThreadRepository[IdT, UserIdT]
    messages: MessageRepository[IdT, UserIdT]
    states: CachedStates[IdT, UserIdT]
    checkpoints: CheckpointRepository[IdT, UserIdT]
    tool_results: ToolResultRepository[IdT, UserIdT]


@frozen
class UnitOfWork(Repositories[IdT, UserIdT], Generic[IdT, UserIdT]):
    """The repositories over one session, scoped to one owner. What belongs to somebody else does not exist here."""

    entities: EntityRepository[IdT, UserIdT]
    _session: AsyncSession = field(repr=False)

    @property
    def session(self) -> AsyncSession:
        """The session that they share; work of the host's own in it commits or rolls back with theirs."""
        share(self._session.sync_session)
        return self._session
