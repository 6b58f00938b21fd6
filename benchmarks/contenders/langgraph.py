"""LangGraph's ``AsyncPostgresSaver``: a checkpoint a save, a channel for each key of the state."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread


class LangGraph(Contender):
    """One saver, shared by all tasks; it lets one of them at a time use the pool."""

    name: ClassVar[str] = "langgraph"
    own_database = True
    counted = False

    async def open(self, addresses: Addresses) -> None:
        """Open a pool as the library's documentation has it, and make its tables."""
        self.title = f"langgraph-checkpoint-postgres {version('langgraph-checkpoint-postgres')}"
        self.pool = await open_pool(addresses)
        self.shared: Any = AsyncPostgresSaver(self.pool)
        await self.shared.setup()
        self.saved: dict[str, tuple[Any, dict[str, Any], Any]] = {}

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()

    def saver(self) -> Any:
        """Return the saver to use."""
        return self.shared

    async def save_state(self, thread: Thread, state: dict[str, Any]) -> Any:
        """Save a checkpoint; channels whose value is still the same object keep their version, as in a graph."""
        saver = self.saver()
        config, versions, last = self.saved.get(thread.id, (_config(thread), {}, {}))
        new = {key: saver.get_next_version(versions.get(key), None) for key in state if state[key] is not last.get(key)}
        versions = {**versions, **new}
        checkpoint = {**empty_checkpoint(), "channel_values": state, "channel_versions": versions}
        config = await saver.aput(config, checkpoint, {"source": "loop", "step": 1, "parents": {}}, new)
        self.saved[thread.id] = config, versions, state

    async def read_state(self, thread: Thread) -> Any:
        """Read the latest checkpoint."""
        return (await self.saver().aget_tuple(_config(thread))).checkpoint["channel_values"]

    async def read_versions(self, thread: Thread) -> list[Any]:
        """Read all checkpoints."""
        found = [one.checkpoint["channel_values"] async for one in self.saver().alist(_config(thread))]
        return found[::-1]

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> Any:
        """What a graph does: read, write a task's messages, save."""
        saver = self.saver()
        config = (await saver.aget_tuple(_config(thread))).config
        await saver.aput_writes(config, [("messages", message) for message in messages], "task")
        return await self.save_state(thread, state)


class LangGraphPerTask(LangGraph):
    """A saver for each task, on one pool."""

    name: ClassVar[str] = "langgraph-per-task"
    grows = False  # one thread has one task

    async def open(self, addresses: Addresses) -> None:
        """Open the pool."""
        await super().open(addresses)
        self.savers: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def saver(self) -> Any:
        """Return the saver of this task."""
        task = asyncio.current_task()
        if task not in self.savers:
            self.savers[task] = AsyncPostgresSaver(self.pool)
        return self.savers[task]


async def open_pool(addresses: Addresses) -> Any:
    """Open a pool as large as everybody's, with the options that the library's documentation has."""
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool: Any = AsyncConnectionPool(
        addresses.postgresql, min_size=POOL_SIZE, max_size=POOL_SIZE, kwargs=options, open=False, timeout=120
    )
    await pool.open(wait=True)
    return pool


def _config(thread: Thread) -> Any:
    return {"configurable": {"thread_id": thread.id, "checkpoint_ns": ""}}
