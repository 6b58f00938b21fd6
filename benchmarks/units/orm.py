"""SQLAlchemy's ORM as it is usually written: a session, entities, a flush."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.ids import uuid7
from benchmarks.contender import Addresses, Thread
from benchmarks.plain_orm import MessageEntity, StateEntity, ThreadEntity
from benchmarks.units import PAGE, Units, Work, hosts_sessions


class _Message(NamedTuple):
    message: dict[str, Any]
    entity: MessageEntity


class Orm(Units):
    """It checks the owner and locks the thread, too, by reading it; its appends are not idempotent."""

    name: ClassVar[str] = "orm"

    async def open(self, addresses: Addresses) -> None:
        """Make an engine."""
        self.title = "SQLAlchemy's ORM as usually written"
        self.engine, self.sessions = hosts_sessions(addresses.sqlalchemy)

    async def close(self) -> None:
        """Close the connections."""
        await self.engine.dispose()

    async def create_thread(self, thread: Thread) -> None:
        """Add a thread."""
        async with self.sessions() as session, session.begin():
            session.add(ThreadEntity(thread_id=thread.id, user_id=thread.user))

    async def in_begin(self, thread: Thread, work: Work) -> Any:  # noqa: ARG002  # each statement names the owner
        """Do it in a session's transaction."""
        async with self.sessions() as session, session.begin():
            return await work(session)

    in_run = in_bind = in_begin

    async def write(self, unit: AsyncSession, thread: Thread, message: dict[str, Any], state: Any) -> tuple[Any, Any]:
        """Read the thread, add two entities, flush."""
        is_its = (ThreadEntity.thread_id == thread.id, ThreadEntity.user_id == thread.user)
        (await unit.scalars(select(ThreadEntity).where(*is_its).with_for_update(key_share=True))).one()
        said = MessageEntity(thread_id=thread.id, message_id=str(uuid7()), **message)
        saved = StateEntity(thread_id=thread.id, state_data=state)
        unit.add_all([said, saved])
        await unit.flush()
        return said, saved

    async def page(self, unit: AsyncSession, thread: Thread) -> Sequence[_Message]:
        """Read entities, and make messages of them."""
        statement = (
            select(MessageEntity)
            .join(ThreadEntity)
            .where(MessageEntity.thread_id == thread.id, ThreadEntity.user_id == thread.user)
            .order_by(MessageEntity.seq.desc())
            .limit(PAGE)
        )
        found = (await unit.scalars(statement)).all()
        return [_Message({"role": one.role, "content": one.content}, one) for one in reversed(found)]

    async def state(self, thread: Thread) -> Any:
        """Read an entity."""
        statement = select(StateEntity).where(StateEntity.thread_id == thread.id).order_by(StateEntity.state_id.desc())
        async with self.sessions() as session:
            found = (await session.scalars(statement.limit(1))).one()
            return found.state_data
