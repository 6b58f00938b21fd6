"""Agentflow's ``PgCheckpointer``: versioned states and messages in PostgreSQL, the latest state in Redis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from agentflow.core.state import AgentState, Message
from agentflow.storage.checkpointer import PgCheckpointer

from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread


class _State(AgentState):  # type: ignore[misc,unused-ignore]  # it is Any where the package is not installed
    payload: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it


class Agentflow(Contender):
    """One checkpointer for all conversations, with its user isolation on, as by default."""

    name: ClassVar[str] = "agentflow"
    own_database = True
    keeps_order = False  # it sorts by the time of the transaction

    async def open(self, addresses: Addresses) -> None:
        """Make pools and tables."""
        self.title = f"10xscale-agentflow {version('10xscale-agentflow')}, messages of a batch in any order"
        self.store = await open_checkpointer(addresses, _State)
        self.counts: Counter[str] = Counter()

    async def close(self) -> None:
        """Close the pools."""
        await self.store.arelease()

    async def save_state(self, thread: Thread, state: Any) -> None:
        """Save a state."""
        await self.store.aput_state(_config(thread), _State(payload=state))

    async def save_state_cached(self, thread: Thread, state: Any) -> None:
        """Save a state and cache it."""
        config, made = _config(thread), _State(payload=state)
        await self.store.aput_state(config, made)
        await self.store.aput_state_cache(config, made)

    async def read_state(self, thread: Thread) -> Any:
        """Read past the cache."""
        return (await self.store.aget_state(_config(thread))).payload

    read_state_fresh = read_state

    async def read_state_cached(self, thread: Thread) -> Any:
        """Read through the cache."""
        return (await self.store.aget_state_cache(_config(thread))).payload

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> None:
        """Store a message."""
        await self.append_messages(thread, [message])

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> None:
        """Store messages."""
        made = [Message.text_message(one["content"], one["role"]) for one in messages]
        await self.store.aput_messages(_config(thread), made)
        self.counts[thread.id] += len(made)

    async def last_messages(self, thread: Thread) -> list[Any]:
        """Read the latest messages, which only a caller can do that knows how many there are."""
        offset = max(0, self.counts[thread.id] - 50)
        found = await self.store.alist_messages(_config(thread), offset=offset, limit=50)
        return [{"role": one.role, "content": one.text()} for one in found]

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> None:
        """Read, and store messages and state in one transaction."""
        config = _config(thread)
        await self.store.aget_state(config)
        made = [Message.text_message(one["content"], one["role"]) for one in messages]
        await self.store.aput_checkpoint(config, _State(payload=state), made)


async def open_checkpointer(addresses: Addresses, state: Any) -> Any:
    """Make pools as large as everybody's, and tables."""
    pool = {"min_size": POOL_SIZE, "max_size": POOL_SIZE}
    urls = {"postgres_dsn": addresses.postgresql, "redis_url": addresses.redis}
    store: Any = PgCheckpointer(**urls, pool_config=pool, redis_pool_config={"max_connections": 1000}, cache_ttl=86_400)
    store.bind_state_type(state)
    await store.asetup()
    return store


def _config(thread: Thread) -> dict[str, Any]:
    return {"thread_id": thread.id, "user_id": thread.user}
