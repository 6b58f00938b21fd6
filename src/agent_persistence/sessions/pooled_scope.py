"""A scope for single reads: each statement takes a connection of its own, without a transaction around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn

from sqlalchemy import Executable, Result, Table
from typing_extensions import override

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.connections import ConnectionPins
from agent_persistence.errors import MisuseError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.records import SavedState, TouchedState
from agent_persistence.sessions.commit_evidence import RowEvidence
from agent_persistence.sessions.scope import Query, Scope


@frozen
class PooledScope(Scope[IdT, UserIdT]):
    """One owner's data, to be read."""

    leases: ConnectionPins

    @override
    async def execute(self, statement: Executable) -> Result[Any]:
        async with self.leases.lend() as lease:
            return await lease.execute(statement)

    @override
    async def fetch(self, statement: CompiledStatement, **values: Any) -> Sequence[Any]:
        async with self.leases.lend() as lease:
            return await lease.fetch(statement, **values)

    @override
    async def write(
        self, statement: Query | CompiledStatement, trace: Callable[[Any], RowEvidence], **values: Any
    ) -> NoReturn:
        raise MisuseError("what is written needs a transaction")

    @property
    @override
    def can_copy(self) -> bool:
        return False

    @override
    async def copy(self, table: Table, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> NoReturn:
        raise MisuseError("what is written needs a transaction")

    @override
    def touch(self, state: TouchedState, saved: SavedState | None = None) -> NoReturn:
        raise MisuseError("what is written needs a transaction")

    @property
    @override
    def in_unit_of_work(self) -> bool:
        return False

    @property
    @override
    def has_snapshot(self) -> bool:
        return False

    @override
    def has_touched(self, thread_id: IdT) -> bool:
        return False
