"""A check whether the database answers, which a busy pool does not delay."""

from __future__ import annotations

import asyncio

from sqlalchemy import Engine, QueuePool, text
from sqlalchemy.ext.asyncio import AsyncEngine

from agent_persistence.concurrency.shielding import start
from agent_persistence.database.driver_errors import DRIVER_ERRORS


async def answers(engine: AsyncEngine, *, timeout_seconds: float) -> bool:
    """Return whether the database answers a statement in time.

    If every connection of the pool is in use, the check opens another one as the pool would, and closes it afterwards.
    """
    task = start(_select(engine))
    # Not asyncio.timeout: closing the connection of a server that does not answer takes seconds, which no caller needs.
    await asyncio.wait([task], timeout=timeout_seconds)
    if not task.done():
        task.cancel()
        return False
    try:
        await task
    except DRIVER_ERRORS:
        return False
    return True


async def _select(engine: AsyncEngine) -> None:
    sync, pool = engine.sync_engine, engine.sync_engine.pool
    is_busy = isinstance(pool, QueuePool) and not pool.checkedin()
    probe = AsyncEngine(Engine(pool.recreate(), sync.dialect, sync.url)) if is_busy else engine
    try:
        async with probe.connect() as connection:
            await connection.execute(text("SELECT 1"))
    finally:
        if is_busy:
            await probe.dispose()
