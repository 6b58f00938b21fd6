"""This package: ``begin``, ``run`` and ``bind``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from agent_persistence import MessageRecord, Persistence, UnitOfWork
from benchmarks.contender import Addresses, Thread
from benchmarks.ours import settings_for
from benchmarks.units import PAGE, Units, Work, hosts_sessions

_Unit = UnitOfWork[str, str]


class Ours(Units):
    """A ``Persistence`` without a cache."""

    name: ClassVar[str] = "ours"

    async def open(self, addresses: Addresses) -> None:
        """Open it, and an engine as a host has it."""
        self.title = "agent-persistence"
        self.persistence: Persistence[str, str] = Persistence(settings_for(addresses))
        await self.persistence.__aenter__()
        self.engine, self.sessions = hosts_sessions(addresses.sqlalchemy)

    async def close(self) -> None:
        """Close both."""
        await self.persistence.aclose()
        await self.engine.dispose()

    async def create_thread(self, thread: Thread) -> None:
        """Start a thread."""
        await self.persistence.threads.create(user_id=thread.user, thread_id=thread.id)

    async def in_begin(self, thread: Thread, work: Work) -> Any:
        """Open a unit of work."""
        async with self.persistence.begin(user_id=thread.user) as unit:
            return await work(unit)

    async def in_run(self, thread: Thread, work: Work) -> Any:
        """Have a unit of work opened."""
        return await self.persistence.run(work, user_id=thread.user)

    async def in_bind(self, thread: Thread, work: Work) -> Any:
        """Join a session's transaction."""
        async with self.sessions() as session, session.begin():
            return await work(self.persistence.bind(session, user_id=thread.user))

    async def write(self, unit: _Unit, thread: Thread, message: dict[str, Any], state: Any) -> tuple[Any, Any]:
        """Two calls."""
        appended = await unit.messages.append(thread.id, message)
        return appended, await unit.states.put(thread.id, state)

    async def page(self, unit: _Unit, thread: Thread) -> Sequence[MessageRecord[str]]:
        """Read a page."""
        return (await unit.messages.page(thread.id, limit=PAGE)).items

    async def state(self, thread: Thread) -> Any:
        """Read the latest state."""
        return (await self.persistence.states.require(thread.id, user_id=thread.user)).data
