"""The connection to the database of another store, which an import only reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.database.driver_errors import DRIVER_ERRORS, translated
from agent_persistence.database.engine import give_up_silent_connections

UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)
"""What a row raises whose JSON has another shape than its program writes; the row is refused, and the others go on."""

CONNECT_SECONDS: Final = 10.0
"""The limit for connecting to a source; ``connect_timeout`` in its address wins."""
REPLY_SECONDS: Final = 120.0
"""How long a statement may take in a source, whose tables may lack an index: far longer than any needs with one."""


def unreadable(error: Exception) -> str:
    """Return the reason for refusing a row, without its contents."""
    return f"has values of another shape than its program writes ({type(error).__name__})"


@asynccontextmanager
async def connect_to_source(url: DatabaseUrl, **execution_options: Any) -> AsyncIterator[AsyncConnection]:
    """Connect with these execution options, and close the connection at the end of the block.

    Raises:
        UnavailableError: the server cannot be reached, or stopped to answer.
    """
    limits = {"timeout": CONNECT_SECONDS, "command_timeout": REPLY_SECONDS}
    engine = create_async_engine(
        url.sqlalchemy_url, connect_args=limits | url.connect_args, poolclass=NullPool, hide_parameters=True
    )
    give_up_silent_connections(engine)
    try:
        with translated():
            connection = await (await engine.connect()).execution_options(**execution_options)
        try:
            yield connection
        finally:
            with suppress(*DRIVER_ERRORS):  # it only read: what it has not heard of the end of that changes nothing
                await connection.close()
    finally:
        await engine.dispose()
