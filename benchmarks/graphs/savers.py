"""The checkpointers that are compared."""

from __future__ import annotations

from importlib.metadata import version
from typing import ClassVar

from langgraph.checkpoint.memory import InMemorySaver

from agent_persistence import Persistence
from agent_persistence.integrations.langgraph import PersistenceSaver
from benchmarks.contender import Addresses, Operation, Samples, Thread
from benchmarks.graphs import Graphs
from benchmarks.ours import settings_for

_OWNER = "user-1"


class Ours(Graphs):
    """``PersistenceSaver`` over a ``Persistence`` without a cache."""

    name: ClassVar[str] = "ours"
    mirror: ClassVar[str | None] = None

    async def open(self, addresses: Addresses) -> None:
        """Open it."""
        self.title = "agent-persistence"
        self.persistence: Persistence[str, str] = Persistence(settings_for(addresses))
        await self.persistence.__aenter__()
        self.compile([PersistenceSaver(self.persistence, user_id=_OWNER, mirror=self.mirror)])

    async def close(self) -> None:
        """Close it."""
        await self.persistence.aclose()


class OursMirrored(Ours):
    """The same, which also writes each message to ``messages``."""

    name: ClassVar[str] = "ours mirrored"
    mirror = "messages"

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:
        """Compare the rows of ``messages``, too."""
        is_right = await super().verify(operation, key, thread, samples)
        state = await self.get_state(thread)
        rows = await self.persistence.messages.page(thread.id, user_id=_OWNER, limit=1000)
        return is_right and [row.text for row in rows] == [one.content for one in state.values["messages"]]


class InMemory(Graphs):
    """LangGraph's ``InMemorySaver``: what a run costs that stores nothing."""

    name: ClassVar[str] = "in-memory"

    async def open(self, addresses: Addresses) -> None:  # noqa: ARG002  # it needs no server
        """Make it."""
        self.title = f"langgraph-checkpoint {version('langgraph-checkpoint')}, which keeps everything in this process"
        self.compile([InMemorySaver()])
