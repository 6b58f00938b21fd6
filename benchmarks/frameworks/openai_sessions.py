"""w14-openai: sessions of the OpenAI Agents SDK, the SDK's own and this package's."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from agents.extensions.memory import SQLAlchemySession
from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence import Persistence
from agent_persistence.integrations.openai_agents import PersistenceSession
from benchmarks.contender import POOL_SIZE, Addresses, Contender, Operation, Samples, Thread
from benchmarks.ours import settings_for

_TURNS = 20
_PAGE = 20


class Sessions(Contender):
    """A session object for each thread."""

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, Any] = {}

    def begin(self, thread: Thread) -> Any:
        """Make the session of a thread."""
        raise NotImplementedError

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # all threads alike
        """Begin a session, and say something."""
        await self.say(thread, _TURNS)

    async def say(self, thread: Thread, turns: int) -> None:
        """Add so many turns to a session."""
        for number in range(turns):
            await self._session(thread).add_items(_items(number))

    async def add_two(self, thread: Thread) -> Any:
        """``add_items`` of what a user said and what was answered."""
        await self._session(thread).add_items(_items(0))

    async def get_last(self, thread: Thread) -> Any:
        """``get_items`` of the last 20."""
        return await self._session(thread).get_items(limit=_PAGE)

    async def turn_of_two(self, thread: Thread) -> Any:
        """What a runner does: get what was said, add what is said."""
        found = await self.get_last(thread)
        await self.add_two(thread)
        return found

    async def pop_added(self, thread: Thread) -> Any:
        """``add_items`` of one, and ``pop_item``."""
        session = self._session(thread)
        await session.add_items(_items(0)[:1])
        return await session.pop_item()

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:  # noqa: ARG002
        """Compare what it returned, and what can be read after it, with what was said."""
        said = [item for number in range(_TURNS) for item in _items(number)]
        returned = {"add": None, "pop": _items(0)[0]}.get(key.rpartition("-")[2], said[-_PAGE:])
        added = _items(0) if key.endswith(("add", "turn")) else []
        found = await operation(thread), await self._session(thread).get_items()
        return bool(found == (returned, [*said, *added]))

    def _session(self, thread: Thread) -> Any:
        if thread.id not in self.sessions:
            self.sessions[thread.id] = self.begin(thread)
        return self.sessions[thread.id]


class Ours(Sessions):
    """``PersistenceSession`` over a ``Persistence`` without a cache."""

    name: ClassVar[str] = "ours"

    async def open(self, addresses: Addresses) -> None:
        """Open it."""
        self.title = "agent-persistence"
        self.persistence: Persistence[str, str] = Persistence(settings_for(addresses))
        await self.persistence.__aenter__()

    async def close(self) -> None:
        """Close it."""
        await self.persistence.aclose()

    def begin(self, thread: Thread) -> Any:
        """Make a session."""
        return PersistenceSession(thread.id, persistence=self.persistence, user_id=thread.user)


class SDK(Sessions):
    """``SQLAlchemySession``."""

    name: ClassVar[str] = "openai-agents"
    own_database = True

    async def open(self, addresses: Addresses) -> None:
        """Make an engine and the tables."""
        self.title = f"openai-agents {version('openai-agents')}"
        self.engine = create_async_engine(addresses.sqlalchemy, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=120)
        await SQLAlchemySession("tables", engine=self.engine, create_tables=True).get_items()

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()

    def begin(self, thread: Thread) -> Any:
        """Make a session."""
        return SQLAlchemySession(thread.id, engine=self.engine)


def _items(number: int) -> Sequence[Any]:
    answer = {
        "type": "output_text",
        "text": f"An answer to question {number}, of a sentence or two.",
        "annotations": [],
    }
    return [
        {"role": "user", "content": f"A question that a user may ask, number {number}?"},
        {"id": f"msg_{number}", "type": "message", "role": "assistant", "status": "completed", "content": [answer]},
    ]
