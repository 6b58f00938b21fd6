"""Agno's ``AsyncPostgresDb``: a session with its state in one row, a run for each message or batch of them."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, ClassVar

from agno.db.base import SessionType
from agno.db.postgres import AsyncPostgresDb
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.session import AgentSession
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.contender import POOL_SIZE, Addresses, Contender, Thread

_MULTIPLY = """\
INSERT INTO {table}
SELECT made.* FROM {table} one, generate_series(1, :more) n,
    jsonb_populate_record(one, jsonb_build_object('run_id', one.run_id || n, 'run_index', -n)) made
WHERE one.session_id = :session"""


class Agno(Contender):
    """One object for all conversations; a session's latest state only, no older ones."""

    name: ClassVar[str] = "agno"
    own_database = True

    async def open(self, addresses: Addresses) -> None:
        """Make an engine; the tables make themselves."""
        self.title = f"agno {version('agno')}"
        self.engine = create_async_engine(addresses.sqlalchemy, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=120)
        self.database: Any = AsyncPostgresDb(db_engine=self.engine, db_schema="public")

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()

    async def save_state(self, thread: Thread, state: Any) -> Any:
        """Upsert the session."""
        data = {"session_state": state}
        session = AgentSession(thread.id, agent_id="a", user_id=thread.user, session_data=data, created_at=1763712000)
        return await self.database.upsert_session(session)

    async def read_state(self, thread: Thread) -> Any:
        """Read the session without its runs."""
        found = await self.database.get_session(thread.id, SessionType.AGENT, user_id=thread.user, runs_limit=1)
        return found.session_data["session_state"]

    async def append_message(self, thread: Thread, message: dict[str, Any]) -> None:
        """Store a run of one message."""
        await self.append_messages(thread, [message])

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> None:
        """Store a run of these messages."""
        run = RunOutput(str(uuid.uuid4()), "a", session_id=thread.id, messages=[Message(**one) for one in messages])
        await self.database.upsert_run(run, thread.id, user_id=thread.user)

    async def last_messages(self, thread: Thread) -> list[Any]:
        """Read the latest 50 runs."""
        runs = await self.database.get_runs(thread.id, limit=50, sort_by="run_index", sort_order="desc")
        return [{"role": one.role, "content": one.content} for run in reversed(runs) for one in run.messages]

    async def lengthen(self, thread: Thread, messages: Sequence[dict[str, Any]], count: int) -> None:
        """Store one run, and let the database repeat it."""
        await self.append_message(thread, messages[0])
        statement = text(_MULTIPLY.format(table=self.database.runs_table_name))
        async with self.engine.begin() as connection:
            await connection.execute(statement, {"more": count - 1, "session": thread.id})

    async def turn(self, thread: Thread, messages: Sequence[dict[str, Any]], state: Any) -> None:
        """Read the session, store a run, store the session."""
        await self.read_state(thread)
        await self.append_messages(thread, messages)
        await self.save_state(thread, state)
