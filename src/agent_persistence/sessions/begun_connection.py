"""The connection of a session in whose transaction, or savepoint, statements can go straight to the driver.

SQLAlchemy's cursor, result and two greenlets cost three times as much as a short statement. The first statement of a
transaction or savepoint passes through SQLAlchemy all the same, which sends BEGIN or SAVEPOINT before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from agent_persistence.database.driver_errors import DRIVER_ERRORS
from agent_persistence.database.engine import gives_up
from agent_persistence.database.pinned_connection import is_observed, translate_from


class BegunConnection:
    """A connection in the transaction or savepoint of a session.

    Args:
        connection: SQLAlchemy's connection.
        transaction: the innermost transaction, or savepoint, of the session.
    """

    def __init__(self, connection: AsyncConnection, transaction: Any) -> None:
        self._connection = connection
        self._transaction = transaction
        sync_connection: Any = connection.sync_connection
        self._sync_connection = sync_connection
        self._driver: Any = sync_connection.connection.driver_connection

    def serves(self, transaction: Any) -> bool:
        """Whether a statement of this transaction may go to the driver: BEGIN was sent, and SQLAlchemy has no part."""
        return (
            transaction is self._transaction
            and self._driver.is_in_transaction()
            and not is_observed(self._sync_connection)
            and "schema_translate_map" not in self._sync_connection.get_execution_options()
        )

    async def fetch(self, text: str, arguments: Sequence[Any]) -> Sequence[Any]:
        """Run a statement, and return its rows.

        Raises:
            PersistenceError: the driver's error, translated.
        """
        try:
            rows: Sequence[Any] = await self._driver.fetch(text, *arguments)
        except asyncio.CancelledError as error:
            # asyncpg would let the ROLLBACK of the session wait until the server confirms the cancellation.
            self._driver.terminate()
            await self._connection.invalidate(error)
            raise
        except (*DRIVER_ERRORS, AttributeError) as error:
            if isinstance(error, TimeoutError) and gives_up(self._sync_connection.engine):
                self._driver.terminate()
            if self._driver.is_closed():
                # As SQLAlchemy does: otherwise the ROLLBACK of the session would raise an error of its own.
                await self._connection.invalidate(error)
            raise translate_from(self._driver, error) from error
        return rows
