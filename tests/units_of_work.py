"""The two ways to come by a unit of work: one of its own, or one on a session of the host's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import Persistence
from agent_persistence.operations.unit_of_work import UnitOfWork

Store = Persistence[str, str]


@asynccontextmanager
async def begun(store: Store, user_id: str) -> AsyncIterator[UnitOfWork[str, str]]:
    async with store.begin(user_id=user_id) as uow:
        yield uow


@asynccontextmanager
async def bound(store: Store, user_id: str) -> AsyncIterator[UnitOfWork[str, str]]:
    async with AsyncSession(store.engine) as session, session.begin():
        yield store.bind(session, user_id=user_id)
