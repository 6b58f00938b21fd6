"""w14-adk: session services of Google ADK, its own and this package's."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from typing import Any, ClassVar

from google.adk.events import Event
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types
from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence import Persistence
from agent_persistence.integrations.google_adk import PersistenceSessionService
from benchmarks.contender import POOL_SIZE, Addresses, Contender, Operation, Samples, Thread
from benchmarks.ours import settings_for

_APP = "benchmark"
_TURNS = 20
_LATEST = GetSessionConfig(num_recent_events=20)


class Services(Contender):
    """A session object for each thread."""

    service: Any

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, Any] = {}
        self.alone = asyncio.Lock()

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # all threads alike
        """Create a session, and say something."""
        await self.say(thread, _TURNS)

    async def say(self, thread: Thread, turns: int) -> None:
        """Create a session of so many turns."""
        async with self.alone:  # the rows of an app and of a user do not like to be made twice at once
            self.sessions[thread.id] = await self.service.create_session(
                app_name=_APP, user_id=thread.user, session_id=thread.id, state={"step": 0}
            )
        for number in range(2 * turns):
            await self.service.append_event(self.sessions[thread.id], _event(number))

    async def append_event(self, thread: Thread) -> Any:
        """``append_event`` of what a user said."""
        await self.service.append_event(self.sessions[thread.id], _event(0))

    async def get_session(self, thread: Thread) -> Any:
        """``get_session`` with its last 20 events."""
        found = await self.service.get_session(app_name=_APP, user_id=thread.user, session_id=thread.id, config=_LATEST)
        return [found.state["step"], *map(_text, found.events)]

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:  # noqa: ARG002
        """Compare what it returned, and what can be read after it, with what was said."""
        texts = [_text(_event(number)) for number in range(2 * _TURNS)]
        if key.endswith("append"):
            is_right, texts = await operation(thread) is None, [*texts, _text(_event(0))]
        else:
            is_right = await operation(thread) == [0, *texts[-20:]]
        return is_right and await self.get_session(thread) == [0, *texts[-20:]]


class Ours(Services):
    """``PersistenceSessionService`` over a ``Persistence`` without a cache."""

    name: ClassVar[str] = "ours"

    async def open(self, addresses: Addresses) -> None:
        """Open it."""
        self.title = "agent-persistence"
        self.persistence: Persistence[str, str] = Persistence(settings_for(addresses))
        await self.persistence.__aenter__()
        self.service = PersistenceSessionService(persistence=self.persistence)

    async def close(self) -> None:
        """Close it."""
        await self.persistence.aclose()


class ADK(Services):
    """``DatabaseSessionService``."""

    name: ClassVar[str] = "adk"
    own_database = True

    async def open(self, addresses: Addresses) -> None:
        """Make an engine; the service makes the tables."""
        self.title = f"google-adk {version('google-adk')}"
        self.engine = create_async_engine(addresses.sqlalchemy, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=120)
        self.service = DatabaseSessionService(db_engine=self.engine)

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()


def _event(number: int) -> Any:
    author = ("user", "agent")[number % 2]
    text = f"Something that was said in a conversation, number {number}."
    role = "user" if author == "user" else "model"
    return Event(author=author, invocation_id="run", content=types.Content(role=role, parts=[types.Part(text=text)]))


def _text(event: Any) -> str:
    return str(event.content.parts[0].text)
