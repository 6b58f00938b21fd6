"""A scope for reads of one statement, which those of concurrent callers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import override

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.shared_reads import SharedReads
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.sessions.pooled_scope import PooledScope


@frozen
class SharedScope(PooledScope[IdT, UserIdT]):
    """One owner's data, read only, beside other callers'."""

    reads: SharedReads

    @override
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        return await self.reads.fetch(statement, values)
