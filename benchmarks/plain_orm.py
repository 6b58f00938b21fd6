"""SQLAlchemy's ORM as it is usually written, on the same tables: what reads of entities are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import FetchedValue, ForeignKey, select
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.contender import POOL_SIZE, Thread

_ROLES = ("user", "assistant", "system", "tool")


class _Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSONB}  # noqa: RUF012  # SQLAlchemy's own way to say it


class ThreadEntity(_Base):
    """A row of ``threads``."""

    __tablename__ = "threads"

    thread_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class StateEntity(_Base):
    """A row of ``states``."""

    __tablename__ = "states"

    thread_id: Mapped[str] = mapped_column(ForeignKey("threads.thread_id"), primary_key=True)
    state_id: Mapped[int] = mapped_column(primary_key=True, server_default=FetchedValue())
    state_data: Mapped[dict[str, Any]]
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class MessageEntity(_Base):
    """A row of ``messages``."""

    __tablename__ = "messages"

    thread_id: Mapped[str] = mapped_column(ForeignKey("threads.thread_id"), primary_key=True)
    message_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(server_default=FetchedValue())
    role: Mapped[str] = mapped_column(ENUM(*_ROLES, name="message_role", create_type=False))
    content: Mapped[str]
    tool_calls: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    tool_call_id: Mapped[str | None]
    reasoning: Mapped[str | None]
    extra: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    total_tokens: Mapped[int] = mapped_column(default=0)
    usages: Mapped[dict[str, Any]] = mapped_column(default=dict)
    meta: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(server_default=FetchedValue())


class PlainOrm:
    """An engine and a session for each call, with the library's defaults."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def latest_state(self, thread: Thread) -> StateEntity | None:
        """Read the latest state."""
        statement = (
            select(StateEntity)
            .join(ThreadEntity)
            .where(StateEntity.thread_id == thread.id, ThreadEntity.user_id == thread.user)
            .order_by(StateEntity.state_id.desc())
            .limit(1)
        )
        async with self._sessions() as session:
            return (await session.scalars(statement)).one_or_none()

    async def last_messages(self, thread: Thread) -> Sequence[MessageEntity]:
        """Read the last 50 messages, oldest first."""
        statement = (
            select(MessageEntity)
            .join(ThreadEntity)
            .where(MessageEntity.thread_id == thread.id, ThreadEntity.user_id == thread.user)
            .order_by(MessageEntity.seq.desc())
            .limit(50)
        )
        async with self._sessions() as session:
            return (await session.scalars(statement)).all()[::-1]
