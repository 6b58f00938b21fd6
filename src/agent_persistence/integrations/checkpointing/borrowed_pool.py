"""An engine over an asyncpg pool of the host's: each checkout borrows a connection, and gives it back as it was."""

from __future__ import annotations

from typing import Any, Final

import asyncpg
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent_persistence.errors import InvalidInputError, PoolTimeoutError
from agent_persistence.settings import PersistenceSettings

_INSTEAD: Final = "; pass postgres_dsn, or an open Persistence"


async def engine_over(pool: Any, settings: PersistenceSettings) -> AsyncEngine:
    """Make an engine that takes its connections from a pool.

    SQLAlchemy keeps none of them: one is borrowed for a transaction and released after it. The limits of statements and
    transactions are those that the pool's connections have.

    Raises:
        InvalidInputError: this is no pool, or its connections decode JSON by themselves.
    """
    if not isinstance(pool, asyncpg.Pool):
        raise InvalidInputError("pg_pool", f"must be an asyncpg.Pool, not {type(pool).__name__}{_INSTEAD}")
    await pool  # made by create_pool() without await, it is not ready yet; otherwise this does nothing
    async with pool.acquire() as connection:
        if type(await connection.fetchval("SELECT '{}'::jsonb")) is not str:
            raise InvalidInputError(
                "pg_pool", f"has a type codec for jsonb, which would write our JSON twice{_INSTEAD}"
            )

    async def borrow() -> Any:
        try:
            return Borrowed(pool, await pool.acquire(timeout=settings.pool_timeout))
        except TimeoutError:
            raise PoolTimeoutError(
                f"the given pool has had no connection free for {settings.pool_timeout:g} s"
            ) from None

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=borrow, poolclass=NullPool, hide_parameters=True
    )
    dialect: Any = engine.dialect
    # It would set its own codecs for JSON on connections that the host uses as well. We write and read JSON as text.
    dialect.setup_asyncpg_json_codec = dialect.setup_asyncpg_jsonb_codec = _leave_codecs_alone
    return engine


class Borrowed:
    """A connection of a pool, whose ``close`` gives it back."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's own argument
        """Give it back; the pool resets it."""
        await self._pool.release(self._connection, timeout=timeout)


async def _leave_codecs_alone(_connection: Any) -> None:
    pass
