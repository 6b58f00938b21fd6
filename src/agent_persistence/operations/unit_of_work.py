"""The repositories of one owner over one scope, each made when it is first used."""

from __future__ import annotations

from functools import cached_property
from typing import Generic

from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.cache import StateCache
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.operations.state_reader import StateReader
from agent_persistence.repositories import (
    CheckpointRepository,
    EntityRepository,
    ItemRepository,
    MessageRepository,
    ThreadRepository,
    ToolResultRepository,
)
from agent_persistence.sessions.commit_hooks import share
from agent_persistence.sessions.scope import Scope
from agent_persistence.sessions.session_scope import TransactionScope


class Repositories(Generic[IdT, UserIdT]):
    """The repositories of one owner. Rows of other owners do not exist here."""

    def __init__(self, scope: Scope[IdT, UserIdT], cache: StateCache | None, reader: StateReader[IdT, UserIdT]) -> None:
        self._scope = scope
        self._cache = cache
        self._reader = reader

    @cached_property
    def threads(self) -> ThreadRepository[IdT, UserIdT]:
        """The owner's threads."""
        return ThreadRepository(self._scope)

    @cached_property
    def messages(self) -> MessageRepository[IdT, UserIdT]:
        """The messages of the owner's threads."""
        return MessageRepository(self._scope)

    @cached_property
    def states(self) -> CachedStates[IdT, UserIdT]:
        """The states of the owner's threads, behind the cache."""
        return CachedStates(self._scope, self._cache, self._reader)

    @cached_property
    def checkpoints(self) -> CheckpointRepository[IdT, UserIdT]:
        """The checkpoints of graphs in the owner's threads."""
        return CheckpointRepository(self._scope)

    @cached_property
    def tool_results(self) -> ToolResultRepository[IdT, UserIdT]:
        """The results of tool calls in the owner's threads."""
        return ToolResultRepository(self._scope)

    @cached_property
    def items(self) -> ItemRepository[IdT, UserIdT]:
        """The owner's items, which belong to no thread."""
        return ItemRepository(self._scope)


class UnitOfWork(Repositories[IdT, UserIdT], Generic[IdT, UserIdT]):
    """The repositories of one owner in one transaction. Rows of other owners do not exist here."""

    def __init__(
        self, scope: TransactionScope[IdT, UserIdT], cache: StateCache | None, reader: StateReader[IdT, UserIdT]
    ) -> None:
        super().__init__(scope, cache, reader)
        self._transaction = scope

    @cached_property
    def entities(self) -> EntityRepository[IdT, UserIdT]:
        """The owner's rows as objects of the mapped classes."""
        return EntityRepository(self._transaction.session_scope())

    @property
    def session(self) -> AsyncSession:
        """The session of the unit of work; what the host does in it commits or rolls back with the rest."""
        session = self._transaction.session_scope().session
        share(session.sync_session)
        return session


def end(uow: UnitOfWork[IdT, UserIdT]) -> None:
    """Refuse later calls of a unit of work in a session of the host, which is about to end that session.

    It says nothing to the session, which the host commits. Not a method: a caller of ``bind`` knows when its own
    session ends, and ``begin`` ends its unit of work itself.
    """
    lifetime = uow._transaction.session_scope().lifetime  # noqa: SLF001 - of the class above
    if lifetime is not None:
        lifetime.has_ended = True
