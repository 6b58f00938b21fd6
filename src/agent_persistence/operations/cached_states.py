"""The read-through cache around the states of a unit of work."""

from __future__ import annotations

from functools import partial
from typing import Generic

from typing_extensions import override

from agent_persistence.cache.state_cache import StateCache
from agent_persistence.errors import StateNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.state_reader import StateReader
from agent_persistence.records import ANY_USER, StateRecord
from agent_persistence.repositories.states.streams import StreamedStates
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_version


class CachedStates(StreamedStates[IdT, UserIdT], Generic[IdT, UserIdT]):
    """The states of one owner's threads; the latest one comes from Redis if it is there.

    Args:
        cache: ``None`` where no cache is configured.
        reader: reads a latest state outside the caller's transaction.
    """

    def __init__(self, scope: Scope[IdT, UserIdT], cache: StateCache | None, reader: StateReader[IdT, UserIdT]) -> None:
        super().__init__(scope)
        self._cache = cache
        self._reader = reader

    @override
    async def get(
        self, thread_id: IdT, *, fresh: bool = False, min_version: int | None = None
    ) -> StateRecord[IdT] | None:
        """Return a thread's latest state, or ``None``.

        Args:
            thread_id: the thread.
            fresh: read the table, whatever the cache holds.
            min_version: do not accept an older version from the cache.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored state cannot be read.
        """
        thread_id, owner = self._scope.thread_id(thread_id), self._scope.owner
        wanted = 0 if min_version is None else check_version(min_version, "min_version")
        cache = self._cache
        # The table only: a transaction must see its own writes, administration bypasses the cache, and a session of the
        # host may have the search path of another tenant.
        reads_table = fresh or self._scope.may_be_elsewhere or self._scope.has_touched(thread_id)
        if cache is None or owner is ANY_USER or reads_table:
            if cache is not None:
                cache.counts.bypassed += 1
            return await self._from_table(thread_id)
        # A read in an open transaction holds a connection, and leaves filling to others.
        otherwise = partial(self._from_table, thread_id) if self._scope.has_snapshot else None
        state = await self._reader.through_cache(cache, thread_id, owner, otherwise)
        # A caller that has seen a version must not get an older one, even if Redis lost what it had acknowledged.
        return state if (state.version if state else 0) >= wanted else await self._from_table(thread_id)

    @override
    async def require(self, thread_id: IdT, *, fresh: bool = False, min_version: int | None = None) -> StateRecord[IdT]:
        """Return a thread's latest state; arguments and errors are those of ``get``.

        Raises:
            StateNotFoundError: the thread has no state, or is not the owner's.
        """
        state = await self.get(thread_id, fresh=fresh, min_version=min_version)
        if state is None:
            raise StateNotFoundError(thread_id)
        return state

    async def _from_table(self, thread_id: IdT) -> StateRecord[IdT] | None:
        owner = self._scope.owner
        if self._scope.in_unit_of_work or owner is ANY_USER:
            return await super().get(thread_id)
        return await self._reader.latest(thread_id, owner)
