"""A scope for single reads: each statement runs on a pinned connection, without a transaction around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Executable, Result
from typing_extensions import override

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.connections import PinnedConnections
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.sessions.scope import Scope


@frozen
class PooledScope(Scope[IdT, UserIdT]):
    """One owner's data, read only. The snapshot of each statement is its own."""

    connections: PinnedConnections

    @override
    async def execute(self, statement: Executable) -> Result[Any]:
        async with self.connections.use() as connection:
            return await connection.execute(statement)

    @override
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        async with self.connections.use() as connection:
            return await connection.fetch(statement, **values)
