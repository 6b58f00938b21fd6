"""Google ADK's ``DatabaseSessionService``: events, which carry messages and changes of the state."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from google.adk.events import Event, EventActions
from google.adk.sessions import DatabaseSessionService
from google.adk.sessions.base_session_service import GetSessionConfig
from google.genai import types
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread

_APP = "benchmark"
_MULTIPLY = text("""\
INSERT INTO events (id, app_name, user_id, session_id, invocation_id, timestamp, event_data)
SELECT id || n, app_name, user_id, session_id, invocation_id, timestamp - n * interval '1 ms', event_data
FROM events, generate_series(1, :more) n WHERE session_id = :session""")


class ADK(Contender):
    """A session object for each conversation, on one engine; an event for each message and each saved state."""

    name: ClassVar[str] = "adk"
    own_database = True
    most_tasks = 32

    async def open(self, addresses: Addresses) -> None:
        """Make an engine and the tables."""
        self.title = f"google-adk {version('google-adk')}"
        self.engine = create_async_engine(addresses.sqlalchemy, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=120)
        self.service: Any = DatabaseSessionService(db_engine=self.engine)
        self.sessions: dict[str, Any] = {}
        self.alone = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()

    async def create_thread(self, thread: Thread) -> None:
        """Create a session; the rows of an app and of a user do not like to be made twice at once."""
        async with self.alone:
            made = await self.service.create_session(app_name=_APP, user_id=thread.user, session_id=thread.id)
        self.sessions[thread.id] = made

    async def save_state(self, thread: Thread, state: dict[str, Any]) -> None:
        """Append an event that changes the state."""
        event = Event(author="agent", actions=EventActions(state_delta=state))
        await self.service.append_event(self.sessions[thread.id], event)

    async def read_state(self, thread: Thread) -> Any:
        """Read a session without events."""
        return (await self._read(thread, 0)).state

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> None:
        """Append an event."""
        await self.service.append_event(self.sessions[thread.id], _event(message, {}))

    async def last_messages(self, thread: Thread) -> list[Any]:
        """Read a session with its latest events."""
        events = (await self._read(thread, 50)).events
        return [{"role": event.author, "content": event.content.parts[0].text} for event in events if event.content]

    async def lengthen(self, thread: Thread, messages: Sequence[dict[str, Any]], count: int) -> None:
        """Append one event, and let the database repeat it."""
        await self.append_message(thread, messages[0])
        async with self.engine.begin() as connection:
            await connection.execute(_MULTIPLY, {"more": count - 1, "session": thread.id})

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> None:
        """Read, append the messages; the last of them carries the state."""
        await self._read(thread, 0)
        for message in messages[:-1]:
            await self.append_message(thread, message)
        await self.service.append_event(self.sessions[thread.id], _event(messages[-1], state))

    async def _read(self, thread: Thread, events: int) -> Any:
        config = GetSessionConfig(num_recent_events=events)
        return await self.service.get_session(app_name=_APP, user_id=thread.user, session_id=thread.id, config=config)


def _event(message: dict[str, Any], state: dict[str, Any]) -> Any:
    content = types.Content(role=message["role"], parts=[types.Part(text=message["content"])])
    return Event(author=message["role"], content=content, actions=EventActions(state_delta=state))
