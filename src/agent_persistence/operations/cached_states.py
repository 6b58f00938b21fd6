"""The read-through wrapper around the states of a unit of work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic

from agent_persistence.cache.state_cache import Hit, Miss, StateCache
from agent_persistence.errors import StateNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import ANY_USER, StateRecord
from agent_persistence.repositories.states.streams import StreamedStates
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_version


class CachedStates(StreamedStates[IdT, UserIdT], Generic[IdT, UserIdT]):
    """The states of one owner's threads, where the latest one comes from Redis if it is there.

    Args:
        cache: ``None`` where no cache is configured.
        read_alone: reads a thread's latest state in a short transaction of its own.
    """

    def __init__(
        self,
        scope: Scope[IdT, UserIdT],
        cache: StateCache | None,
        read_alone: Callable[[IdT, UserIdT], Awaitable[StateRecord[IdT] | None]],
    ) -> None:
        super().__init__(scope)
        self._cache = cache
        self._read_alone = read_alone

    async def get(
        self, thread_id: IdT, *, fresh: bool = False, min_version: int | None = None
    ) -> StateRecord[IdT] | None:
        """Return the thread's latest state, or ``None``.

        Args:
            fresh: read the table, whatever the cache holds.
            min_version: do not accept an older version from the cache.
        """
        thread_id, owner = self._scope.thread_id(thread_id), self._scope.owner
        wanted = 0 if min_version is None else check_version(min_version, "min_version")
        cache = self._cache
        # A transaction sees its own writes in the table only; administration passes the cache by.
        if cache is None or owner is ANY_USER or fresh or self._scope.has_touched(thread_id):
            return await self._from_table(thread_id)
        state = await self._from_cache(cache, thread_id, owner)
        return state if (state.version if state else 0) >= wanted else await self._from_table(thread_id)

    async def _from_cache(self, cache: StateCache, thread_id: IdT, owner: UserIdT) -> StateRecord[IdT] | None:
        flights, key = cache.flights, (thread_id, owner)
        came = flights.come(key)
        try:
            found = await cache.look(thread_id, owner)
            if isinstance(found, Hit):
                return found.state
            if self._scope.has_snapshot:
                # A fill must read a snapshot of its own. A caller whose transaction is open already may have an older
                # one, and holds a connection: it reads there, and leaves filling to others.
                return await self._from_table(thread_id)
            # Who waited for another flight looks once more: it has filled the cache.
            return await flights.fly(
                key, lambda waited: self._fetch(cache, thread_id, owner, None if waited else found), came=came
            )
        finally:
            flights.leave(key)

    async def _from_table(self, thread_id: IdT) -> StateRecord[IdT] | None:
        owner = self._scope.owner
        if self._scope.in_unit_of_work or owner is ANY_USER:
            return await super().get(thread_id)
        return await self._read_alone(thread_id, owner)

    async def _fetch(
        self,
        cache: StateCache,
        thread_id: IdT,
        owner: UserIdT,
        found: Miss | None,
    ) -> StateRecord[IdT] | None:
        """Read the table for everybody who waits, and fill the cache with it; the lease comes before the snapshot."""
        known = found or await cache.look(thread_id, owner)
        if isinstance(known, Hit):
            return known.state
        lease = await cache.lease(thread_id, owner) if known.absent else None
        state = await self._read_alone(thread_id, owner)
        if lease is not None:
            await cache.fill(thread_id, owner, lease, state)
        return state

    async def require(self, thread_id: IdT, *, fresh: bool = False, min_version: int | None = None) -> StateRecord[IdT]:
        """Return the thread's latest state.

        Raises:
            StateNotFoundError: there is none.
        """
        state = await self.get(thread_id, fresh=fresh, min_version=min_version)
        if state is None:
            raise StateNotFoundError(thread_id)
        return state
