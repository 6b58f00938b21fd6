"""The applications, each as a process with one database and one socket."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import tempfile
import time
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import asyncpg

from benchmarks import floor_sql as sql
from benchmarks.contender import (
    POOL_SIZE,
    Addresses,
    Contender,
    Cost,
    MissingContenderError,
    Operation,
    Samples,
    Thread,
)
from benchmarks.floor import columns_of, use_orjson
from benchmarks.servers import create_database
from benchmarks.web.client import Client
from benchmarks.writes import Writes

_AT_ONCE = 4
_OTHERS = 24
_MESSAGES = 60
_PAGE = 50
_LISTED = 20
_START_SECONDS = 60
_LOOK_SECONDS = 0.05
_USER = "INSERT INTO users (name, token_digest) VALUES ('Ada', $1) RETURNING id"
_OTHER_THREADS = """\
INSERT INTO threads (thread_id, user_id, updated_at)
SELECT $1 || n, $2, now() - n * interval '1 min' FROM generate_series(1, $3) n"""
_STATE = "SELECT state_data FROM states WHERE thread_id = $1 ORDER BY state_id DESC LIMIT 1"


class Web(Contender):
    """An application under uvicorn. Each thread has a user of its own, whose token is the thread's id."""

    app: ClassVar[str]
    what: ClassVar[str]

    async def open(self, addresses: Addresses) -> None:
        """Make a database, and start the application, which migrates it."""
        self.title = self.what
        here = await create_database(addresses, f"web_{self.name}")
        self.pool: Any = await asyncpg.create_pool(here.postgresql, min_size=1, max_size=_AT_ONCE, init=use_orjson)
        self.folder = tempfile.TemporaryDirectory(prefix="benchmark-web-")
        socket = str(Path(self.folder.name, "http"))
        self.client = Client(socket)
        environment = {
            "PERSISTENCE_DATABASE_URL": here.postgresql,
            "PERSISTENCE_REDIS_URL": here.redis,
            "PERSISTENCE_POOL_SIZE": str(POOL_SIZE),
            "PERSISTENCE_MAX_OVERFLOW": "0",
            "PERSISTENCE_POOL_TIMEOUT": "60",
        }
        command = [sys.executable, "-m", "benchmarks.web.serve", self.app, socket]
        self.process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **environment})
        self.questions = cycle(["Where is my order?", "I want my money back.", "Thank you."])
        if not await self._answers():
            await self.close()
            raise MissingContenderError(f"{self.name}: {self.app} does not start")

    async def _answers(self) -> bool:
        ends = time.monotonic() + _START_SECONDS
        while self.process.returncode is None and time.monotonic() < ends:
            with suppress(OSError):
                await self.cost()
                return True
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    async def close(self) -> None:
        """Stop it."""
        await self.client.close()
        await self.pool.close()
        if self.process.returncode is None:
            self.process.terminate()
        await self.process.wait()
        self.folder.cleanup()

    async def cost(self) -> Cost:
        """Ask the application."""
        seconds, postgresql, redis = await self.client.get("/cost")
        return Cost(seconds, Writes(int(postgresql), int(redis)))

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # there is one kind
        """Insert a user with some threads, of which one has messages and a state."""
        async with self.pool.acquire() as connection:
            user = await connection.fetchval(_USER, hashlib.sha256(thread.id.encode()).hexdigest())
            await connection.execute(sql.CREATE_THREAD, thread.id, user)
            await connection.execute(_OTHER_THREADS, thread.id, user, _OTHERS)
            rows = [(thread.id, *columns_of(message)) for message in samples.messages[:_MESSAGES]]
            await connection.executemany(sql.INSERT_ONE, rows)
            await connection.fetchrow(sql.SAVE_STATE, thread.id, user, {"turns": 0}, {})

    async def list_threads(self, thread: Thread) -> Any:
        """GET the user's threads."""
        return await self.client.get("/threads", thread.id)

    async def list_messages(self, thread: Thread) -> Any:
        """GET the last 50 messages."""
        return await self.client.get(f"/threads/{thread.id}/messages", thread.id)

    async def say(self, thread: Thread) -> Any:
        """POST a message, which is answered."""
        return await self.client.post(f"/threads/{thread.id}/messages", thread.id, {"content": next(self.questions)})

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:
        """Compare what it answers, and the rows that there are after it, with what was written."""
        found = await operation(thread)
        said = [item["message"] for item in (await self.list_messages(thread))["items"]]
        match key:
            case "w13-threads":
                listed = [thread.id, *(f"{thread.id}{number}" for number in range(1, _LISTED))]
                return [item["thread_id"] for item in found["items"]] == listed and found["after"] is not None
            case "w13-messages":
                return (
                    [item["message"] for item in found["items"]]
                    == said
                    == samples.messages[_MESSAGES - _PAGE : _MESSAGES]
                )
            case _:
                turns = await self.pool.fetchval(_STATE, thread.id)
                answer = {"role": "assistant", "content": f"You said: {said[-2]['content']}"}
                return found["message"] == said[-1] == answer and len(said) == _PAGE and turns == {"turns": 1}


class ByHand(Web):
    """asyncpg and hand-written SQL."""

    name: ClassVar[str] = "floor"
    app = "benchmarks.web.by_hand:app"
    what = "asyncpg by hand"


class Ours(Web):
    """The example."""

    name: ClassVar[str] = "ours"
    app = "chat.app:app"
    what = "agent-persistence"


class PlainSQLAlchemy(Web):
    """Sessions and entities."""

    name: ClassVar[str] = "orm"
    app = "benchmarks.web.plain_sqlalchemy:app"
    what = "SQLAlchemy's ORM as usually written"
