"""The two checkpointers: Agentflow's own, and ours."""

from __future__ import annotations

from importlib.metadata import version
from typing import ClassVar

from agent_persistence import Persistence
from agent_persistence.integrations.agentflow import PersistenceCheckpointer
from benchmarks.agentflow_calls import Calls, State
from benchmarks.contender import Addresses
from benchmarks.contenders.agentflow_store import open_checkpointer
from benchmarks.ours import settings_for


class Agentflow(Calls):
    """``PgCheckpointer``."""

    name: ClassVar[str] = "agentflow"
    own_database = True

    async def open(self, addresses: Addresses) -> None:
        """Make pools and tables."""
        self.title = f"10xscale-agentflow {version('10xscale-agentflow')}"
        self.store = await open_checkpointer(addresses, State)

    async def close(self) -> None:
        """Close the pools."""
        await self.store.arelease()


class Ours(Calls):
    """``PersistenceCheckpointer``, with the same cache."""

    name: ClassVar[str] = "ours"

    async def open(self, addresses: Addresses) -> None:
        """Open a ``Persistence``."""
        self.title = "agent-persistence"
        self.persistence: Persistence[str, str] = Persistence(settings_for(addresses, redis_url=addresses.redis))
        await self.persistence.__aenter__()
        self.store = PersistenceCheckpointer(persistence=self.persistence)
        self.store.bind_state_type(State)

    async def close(self) -> None:
        """Close it."""
        await self.persistence.aclose()
