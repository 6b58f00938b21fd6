"""The OpenAI Agents SDK's ``SQLAlchemySession``: items of a conversation, no states."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread


class OpenAIAgents(Contender):
    """A session object for each conversation, all on one engine."""

    name: ClassVar[str] = "openai-agents"
    own_database = True

    async def open(self, addresses: Addresses) -> None:
        """Make an engine and the tables."""
        self.title = f"openai-agents {version('openai-agents')}"
        self.engine = create_async_engine(addresses.sqlalchemy, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=120)
        self.sessions: dict[str, Any] = {}
        await SQLAlchemySession("tables", engine=self.engine, create_tables=True).get_items()

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> None:
        """Add an item."""
        await self._session(thread).add_items([message])

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> None:
        """Add items."""
        await self._session(thread).add_items(list(messages))

    async def last_messages(self, thread: Thread) -> list[Any]:
        """Read the latest items."""
        items: list[Any] = await self._session(thread).get_items(limit=50)
        return items

    def _session(self, thread: Thread) -> Any:
        if thread.id not in self.sessions:
            self.sessions[thread.id] = SQLAlchemySession(thread.id, engine=self.engine)
        return self.sessions[thread.id]
