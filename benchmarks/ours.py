"""This package, by its public calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar

from agent_persistence import MessageRecord, Persistence, PersistenceSettings, StateRecord
from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread

_DAY = 86_400
_TRIES = 50
_TRY_SECONDS = 0.1


def settings_for(addresses: Addresses, **more: Any) -> PersistenceSettings:
    """Make settings with a pool as large as everybody's."""
    return PersistenceSettings(
        _env_file=None,
        database_url=addresses.postgresql,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=60.0,
        cache_ttl_seconds=_DAY,
        **more,
    )


class Ours(Contender):
    """``Persistence`` twice: with and without a cache."""

    name: ClassVar[str] = "ours"

    async def open(self, addresses: Addresses) -> None:
        """Open both."""
        self.title = "agent-persistence"
        self.plain: Persistence[str, str] = Persistence(settings_for(addresses))
        self.cached: Persistence[str, str] = Persistence(settings_for(addresses, redis_url=addresses.redis))
        await self.plain.__aenter__()
        await self.cached.__aenter__()

    async def close(self) -> None:
        """Close both."""
        await self.plain.aclose()
        await self.cached.aclose()

    async def create_thread(self, thread: Thread) -> None:
        """Start a thread."""
        await self.plain.threads.create(user_id=thread.user, thread_id=thread.id)

    async def save_state(self, thread: Thread, state: Any) -> StateRecord[str]:
        """Save a state, with no cache configured."""
        return await self.plain.states.put(thread.id, state, user_id=thread.user)

    async def save_state_cached(self, thread: Thread, state: Any) -> StateRecord[str]:
        """Save a state by the cache's protocol."""
        return await self.cached.states.put(thread.id, state, user_id=thread.user)

    async def read_state(self, thread: Thread) -> Any:
        """Read the latest state, with no cache configured."""
        return (await self.plain.states.require(thread.id, user_id=thread.user)).data

    async def read_state_fresh(self, thread: Thread) -> Any:
        """Read past the cache."""
        return (await self.cached.states.require(thread.id, user_id=thread.user, fresh=True)).data

    async def warm(self, threads: Sequence[Thread]) -> None:
        """Read each once."""
        for thread in threads:
            await self.read_state_cached(thread)

    async def before_slice(self, method: str, threads: Sequence[Thread]) -> None:
        """Read all until all are hits, for some seconds: the slice before may have made us leave the cache alone."""
        counts = self.cached.cache.counts if self.cached.cache else None
        for _ in range(_TRIES if method == "read_state_cached" else 0):
            before = counts.hits if counts else 0
            await self.warm(threads)
            if counts is None or counts.hits - before == len(threads):
                return
            await asyncio.sleep(_TRY_SECONDS)

    async def read_state_cached(self, thread: Thread) -> Any:
        """Read through the cache."""
        return (await self.cached.states.require(thread.id, user_id=thread.user)).data

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> MessageRecord[str]:
        """Append a message."""
        return await self.plain.messages.append(thread.id, message, user_id=thread.user)

    async def append_messages(
        self, thread: Thread, messages: Sequence[dict[str, Any]]
    ) -> tuple[MessageRecord[str], ...]:
        """Append many."""
        return await self.plain.messages.append_many(thread.id, messages, user_id=thread.user)

    async def last_messages(self, thread: Thread) -> tuple[MessageRecord[str], ...]:
        """Read a page."""
        return (await self.plain.messages.page(thread.id, user_id=thread.user, limit=50)).items

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> StateRecord[str]:
        """Three calls, each committed when it returns."""
        await self.plain.states.require(thread.id, user_id=thread.user)
        await self.plain.messages.append_many(thread.id, messages, user_id=thread.user)
        return await self.plain.states.put(thread.id, state, user_id=thread.user)

    async def read_versions(self, thread: Thread) -> list[Any]:
        """Read every version by its number."""
        versions: list[int] = []
        after: str | None = None
        while True:
            page = await self.plain.states.page(thread.id, user_id=thread.user, limit=1000, after=after)
            versions += [state.version for state in page]
            if (after := page.after) is None:
                break
        states = [
            await self.plain.states.get_version(thread.id, one, user_id=thread.user) for one in reversed(versions)
        ]
        return [state.data for state in states if state is not None]

    async def read_state_entity(self, thread: Thread) -> Any:
        """Read a mapped object."""
        return await self.plain.entities.get_latest_state(thread.id, user_id=thread.user)

    async def read_message_entities(self, thread: Thread) -> Sequence[Any]:
        """Read mapped objects."""
        return await self.plain.entities.get_last_messages(thread.id, user_id=thread.user, limit=50)
