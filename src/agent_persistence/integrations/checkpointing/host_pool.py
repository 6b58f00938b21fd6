"""A SQLAlchemy engine over the host's asyncpg pool."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import asyncpg
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent_persistence.database.driver_errors import translated
from agent_persistence.errors import InvalidInputError, PoolTimeoutError
from agent_persistence.settings import PersistenceSettings

_ALTERNATIVES: Final = "; pass postgres_dsn, or an open Persistence"


async def engine_over(pool: Any, settings: PersistenceSettings) -> AsyncEngine:
    """Make an engine that takes its connections from an asyncpg pool.

    It acquires a connection for each transaction and releases it afterwards, unchanged. The pool's connections keep the
    limits on statements and transactions that the host has set.

    Raises:
        InvalidInputError: the argument is no asyncpg pool, or its connections have a type codec for ``jsonb``.
        UnavailableError: no connection was free in time, or the database did not answer.
    """
    if not isinstance(pool, asyncpg.Pool):
        raise InvalidInputError("pg_pool", f"must be an asyncpg.Pool, not {type(pool).__name__}{_ALTERNATIVES}")
    with translated():
        await pool  # initializes a pool of create_pool() that was not awaited; does nothing to any other
        async with pool.acquire(timeout=settings.pool_timeout) as connection:
            is_encoded = (
                type(await connection.fetchval("SELECT '{}'::jsonb", timeout=settings.reply_seconds)) is not str
            )
    if is_encoded:
        raise InvalidInputError(
            "pg_pool", f"has a type codec for jsonb, which would encode JSON a second time{_ALTERNATIVES}"
        )

    # NullPool: the host's pool is the only one. The engine keeps no connection that other users of it wait for.
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=partial(_acquire, pool, settings.pool_timeout),
        poolclass=NullPool,
        hide_parameters=True,
    )
    dialect: Any = engine.dialect
    # The dialect would set its JSON codecs on connections that the host uses, too. This package passes JSON as text.
    dialect.setup_asyncpg_json_codec = dialect.setup_asyncpg_jsonb_codec = _leave_codecs_alone
    return engine


class _PooledConnection:
    """A connection of the host's pool, whose ``close`` releases it."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def close(self, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - the driver's own argument
        """Release the connection to the pool, which resets it."""
        await self._pool.release(self._connection, timeout=timeout)


async def _acquire(pool: Any, timeout_seconds: float) -> _PooledConnection:
    try:
        return _PooledConnection(pool, await pool.acquire(timeout=timeout_seconds))
    except TimeoutError:
        raise PoolTimeoutError(f"pg_pool had no connection free for {timeout_seconds:g} s") from None


async def _leave_codecs_alone(_connection: Any) -> None:
    pass
