"""The connection to the database of another store, which an import only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agent_persistence.database.driver_errors import translated
from agent_persistence.database_url import DatabaseUrl


@asynccontextmanager
async def connect_to_source(url: DatabaseUrl, **execution_options: Any) -> AsyncIterator[AsyncConnection]:
    """Connect with these execution options, and close the connection at the end of the block.

    Raises:
        UnavailableError: the server cannot be reached.
    """
    engine = create_async_engine(
        url.sqlalchemy_url, connect_args=url.connect_args, poolclass=NullPool, hide_parameters=True
    )
    try:
        with translated():
            connection = await (await engine.connect()).execution_options(**execution_options)
        try:
            yield connection
        finally:
            await connection.close()
    finally:
        await engine.dispose()
