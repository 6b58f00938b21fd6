"""LangGraph's ``AsyncPostgresSaver``."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, ClassVar

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from benchmarks.contender import POOL_SIZE, Addresses
from benchmarks.contenders.langgraph import open_pool
from benchmarks.graphs import Graphs


class LangGraph(Graphs):
    """One saver, shared by all tasks; it lets one of them at a time use the pool."""

    name: ClassVar[str] = "langgraph"
    own_database = True
    counted = False
    savers: ClassVar[int] = 1

    async def open(self, addresses: Addresses) -> None:
        """Open a pool, and make the tables."""
        self.title = f"langgraph-checkpoint-postgres {version('langgraph-checkpoint-postgres')}"
        self.pool: Any = await open_pool(addresses)
        savers = [AsyncPostgresSaver(self.pool) for _ in range(self.savers)]
        await savers[0].setup()
        self.compile(savers)

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()


class LangGraphPerTask(LangGraph):
    """A saver for each task, on one pool."""

    name: ClassVar[str] = "langgraph-per-task"
    savers: ClassVar[int] = POOL_SIZE
