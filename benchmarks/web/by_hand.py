"""The floor: the example's endpoints with asyncpg and hand-written SQL, on the same tables and with the same bodies.

The look-up of a token is the application's own, and the example's here too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
from fastapi import Depends, FastAPI, HTTPException

from benchmarks import floor_sql as sql
from benchmarks.contender import POOL_SIZE
from benchmarks.floor import columns_of, leave_as_it_is, message_row, use_orjson
from benchmarks.web.cursors import cursor_of, position_in, seq_in
from benchmarks.web.plain_sqlalchemy import make_engine
from chat.agent import ReplyDep
from chat.bodies import Message, MessagePage, NewTurn, ThreadPage
from chat.dependencies import Credentials, user_of_token

_THREADS = """\
SELECT thread_id, thread_name AS name, created_at, updated_at FROM threads
WHERE user_id = $1 AND archived_at IS NULL AND ($2::timestamptz IS NULL OR (updated_at, thread_id) < ($2, $3))
AND ($5::text IS NULL OR thread_name ILIKE '%' || $5 || '%')
ORDER BY updated_at DESC, thread_id DESC LIMIT $4"""
_OWNED = "SELECT 1 FROM threads WHERE thread_id = $1 AND user_id = $2"
_SAVE_OVER = sql.SAVE_STATE.replace(
    "$4 FROM locked\n",
    "$4 FROM locked WHERE coalesce((SELECT max(state_id) FROM states WHERE thread_id = $1), 0) = $5\n",
)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ["PERSISTENCE_DATABASE_URL"]
    pool = asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE, init=use_orjson, reset=leave_as_it_is)
    app.state.engine = make_engine()
    async with pool as app.state.pool:
        yield
    await app.state.engine.dispose()


app = FastAPI(lifespan=_lifespan)


async def current_user_id(credentials: Credentials) -> int:
    """Return the user of a token."""
    return await user_of_token(app.state.engine, credentials.credentials)


CurrentUserId = Annotated[int, Depends(current_user_id)]


@app.get("/threads", response_model=ThreadPage)
async def list_threads(
    user_id: CurrentUserId, limit: int = 20, after: str | None = None, search: str | None = None
) -> dict[str, Any]:
    """List the user's threads, the most recently active first."""
    position = position_in(after) if after else (None, None)
    rows = await app.state.pool.fetch(_THREADS, user_id, *position, limit + 1, search)
    items = [dict(row) for row in rows[:limit]]
    last = rows[limit - 1] if len(rows) > limit else None
    return {"items": items, "after": last and cursor_of(last["updated_at"], last["thread_id"])}


@app.get("/threads/{thread_id}/messages", response_model=MessagePage)
async def list_messages(
    thread_id: str, user_id: CurrentUserId, limit: int = 50, before: str | None = None, after: str | None = None
) -> dict[str, Any]:
    """List the newest messages, or those before or after a cursor."""
    statement = sql.MESSAGES_AFTER if after else sql.MESSAGES_BEFORE
    rows = await app.state.pool.fetch(statement, thread_id, user_id, seq_in(after or before), limit + 1)
    if not rows and not await app.state.pool.fetchval(_OWNED, thread_id, user_id):
        raise HTTPException(404)
    shown = [message_row(row) for row in (rows[:limit] if after else reversed(rows[:limit]))]
    older = cursor_of(shown[0].seq) if shown and (after or len(rows) > limit) else None
    newer = cursor_of(shown[-1].seq) if shown else after
    return {"items": [_body(row) for row in shown], "before": older, "after": newer}


@app.post("/threads/{thread_id}/messages", status_code=201, response_model=Message)
async def say(thread_id: str, turn: NewTurn, user_id: CurrentUserId, reply: ReplyDep) -> dict[str, Any]:
    """Append the user's message, and return the agent's answer."""
    pool = app.state.pool
    thread = (thread_id, user_id)
    if not await pool.fetchrow(sql.APPEND, *thread, *columns_of({"role": "user", "content": turn.content})):
        raise HTTPException(404)
    state = await pool.fetchrow(sql.READ_STATE, *thread)
    answer = await reply([row.message for row in await _newest(*thread)])
    turns, version = (state["state_data"]["turns"], state["state_id"]) if state else (0, 0)
    async with pool.acquire() as connection, connection.transaction():
        said = await connection.fetchrow(sql.APPEND, *thread, *columns_of(answer))
        if not await connection.fetchrow(_SAVE_OVER, *thread, {"turns": turns + 1}, {}, version):
            raise HTTPException(409)
    return {"message_id": said["message_id"], "message": answer, "created_at": said["created_at"]}


async def _newest(thread_id: str, user_id: int) -> list[Any]:
    rows = await app.state.pool.fetch(sql.LAST_MESSAGES, thread_id, user_id)
    return [message_row(row) for row in reversed(rows)]


def _body(row: Any) -> dict[str, Any]:
    return {"message_id": row.message_id, "message": row.message, "created_at": row.created_at}
