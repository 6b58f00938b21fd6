"""The example's endpoints with SQLAlchemy as it is usually written: a session a request, entities, a flush.

The look-up of a token is the application's own, and the example's here too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import FetchedValue, select, tuple_
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from agent_persistence.ids import uuid7
from benchmarks.contender import POOL_SIZE
from benchmarks.plain_orm import MessageEntity, StateEntity
from benchmarks.web.cursors import cursor_of, position_in, seq_in
from chat.agent import ReplyDep
from chat.bodies import Message, MessagePage, NewTurn, ThreadPage
from chat.dependencies import Credentials, user_of_token


class Base(DeclarativeBase):
    """Of the tables whose user ids are numbers."""


class Thread(Base):
    """A row of ``threads``."""

    __tablename__ = "threads"

    thread_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[int]
    name: Mapped[str | None] = mapped_column("thread_name")
    archived_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


def make_engine() -> AsyncEngine:
    """Make an engine with as many connections as the others."""
    url = os.environ["PERSISTENCE_DATABASE_URL"].replace("postgresql://", "postgresql+asyncpg://", 1)
    return create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.engine = make_engine()
    app.state.sessions = async_sessionmaker(app.state.engine, expire_on_commit=False)
    yield
    await app.state.engine.dispose()


app = FastAPI(lifespan=_lifespan)


async def get_session() -> AsyncIterator[AsyncSession]:
    """Open a session for a request."""
    async with app.state.sessions() as session:
        yield session


SessionDep = Annotated[AsyncSession, Depends(get_session)]


async def current_user_id(credentials: Credentials) -> int:
    """Return the user of a token."""
    return await user_of_token(app.state.engine, credentials.credentials)


CurrentUserId = Annotated[int, Depends(current_user_id)]


@app.get("/threads", response_model=ThreadPage)
async def list_threads(
    user_id: CurrentUserId,
    session: SessionDep,
    *,
    limit: int = 20,
    after: str | None = None,
    search: str | None = None,
) -> dict[str, Any]:
    """List the user's threads, the most recently active first."""
    statement = select(Thread).where(Thread.user_id == user_id, Thread.archived_at.is_(None))
    if after:
        statement = statement.where(tuple_(Thread.updated_at, Thread.thread_id) < position_in(after))
    if search:
        statement = statement.where(Thread.name.icontains(search, autoescape=True))
    order = (Thread.updated_at.desc(), Thread.thread_id.desc())
    rows = (await session.scalars(statement.order_by(*order).limit(limit + 1))).all()
    last = rows[limit - 1] if len(rows) > limit else None
    return {"items": rows[:limit], "after": last and cursor_of(last.updated_at, last.thread_id)}


@app.get("/threads/{thread_id}/messages", response_model=MessagePage)
async def list_messages(
    thread_id: str,
    user_id: CurrentUserId,
    session: SessionDep,
    *,
    limit: int = 50,
    before: str | None = None,
    after: str | None = None,
) -> dict[str, Any]:
    """List the newest messages, or those before or after a cursor."""
    await _require(session, thread_id, user_id)
    seq = MessageEntity.seq
    statement = select(MessageEntity).where(MessageEntity.thread_id == thread_id)
    if after or before:
        statement = statement.where(seq > seq_in(after) if after else seq < seq_in(before))
    rows = (await session.scalars(statement.order_by(seq if after else seq.desc()).limit(limit + 1))).all()
    shown = rows[:limit] if after else rows[:limit][::-1]
    older = cursor_of(shown[0].seq) if shown and (after or len(rows) > limit) else None
    newer = cursor_of(shown[-1].seq) if shown else after
    return {"items": [_body(row) for row in shown], "before": older, "after": newer}


@app.post("/threads/{thread_id}/messages", status_code=201, response_model=Message)
async def say(
    thread_id: str, turn: NewTurn, user_id: CurrentUserId, session: SessionDep, reply: ReplyDep
) -> dict[str, Any]:
    """Append the user's message, and return the agent's answer."""
    await _require(session, thread_id, user_id, lock=True)
    session.add(MessageEntity(thread_id=thread_id, message_id=str(uuid7()), role="user", content=turn.content))
    await session.commit()
    state = await _latest(session, thread_id)
    recent = await _newest(session, thread_id)
    await session.commit()
    answer = await reply([_message(row) for row in recent])
    await _require(session, thread_id, user_id, lock=True)
    latest = await _latest(session, thread_id)
    if (latest and latest.state_id) != (state and state.state_id):
        raise HTTPException(409)
    said = MessageEntity(thread_id=thread_id, message_id=str(uuid7()), **answer)
    turns = state.state_data["turns"] if state else 0
    session.add_all([said, StateEntity(thread_id=thread_id, state_data={"turns": turns + 1})])
    await session.commit()
    return _body(said)


async def _require(session: AsyncSession, thread_id: str, user_id: int, *, lock: bool = False) -> None:
    statement = select(Thread).where(Thread.thread_id == thread_id, Thread.user_id == user_id)
    if not await session.scalar(statement.with_for_update(key_share=True) if lock else statement):
        raise HTTPException(404)


async def _latest(session: AsyncSession, thread_id: str) -> StateEntity | None:
    statement = select(StateEntity).where(StateEntity.thread_id == thread_id)
    return await session.scalar(statement.order_by(StateEntity.state_id.desc()).limit(1))


async def _newest(session: AsyncSession, thread_id: str) -> Sequence[MessageEntity]:
    statement = select(MessageEntity).where(MessageEntity.thread_id == thread_id)
    return (await session.scalars(statement.order_by(MessageEntity.seq.desc()).limit(50))).all()[::-1]


def _message(row: MessageEntity) -> dict[str, Any]:
    return {"role": row.role, "content": row.content}


def _body(row: MessageEntity) -> dict[str, Any]:
    return {"message_id": row.message_id, "message": _message(row), "created_at": row.created_at}
