"""Reads of concurrent callers that differ only in their values, by one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from agent_persistence.concurrency.batching import ALONE, Alone, Batch, Batcher
from agent_persistence.concurrency.retries import Retries
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.connections import PinnedConnections
from agent_persistence.database.shared_statement import shared
from agent_persistence.errors import PersistenceError, UnavailableError
from agent_persistence.telemetry.telemetry import Telemetry

Values = Mapping[str, Any]
Rows = Sequence[Any]

_ROW_BYTES: Final = 1024
"""What a row is taken to have: a thousand rows are no longer worth to wait for."""


class SharedReads:
    """Runs SELECTs outside of transactions, each with a snapshot that is not older than its call."""

    def __init__(self, connections: PinnedConnections, retries: Retries, telemetry: Telemetry | None = None) -> None:
        self._connections = connections
        self._retries = retries
        self._telemetry = telemetry
        self._reads: dict[str, _Read] = {}  # by their SQL, of which there are few

    async def fetch(self, statement: CompiledStatement, values: Values) -> Rows:
        """Run a statement with these parameters, and return its rows.

        Raises:
            PersistenceError: it could not be run.
        """
        read = self._reads.get(statement.text)
        if read is None:
            read = self._reads[statement.text] = _Read(statement, self._connections, self._retries, self._telemetry)
        return await read.batcher.submit(values, size=_ROW_BYTES * values.get("limit", 1))

    @property
    def batchers(self) -> list[Batcher[Any, Any]]:
        """The batchers so far."""
        return [read.batcher for read in self._reads.values()]


class _Read:
    """One statement."""

    def __init__(
        self,
        statement: CompiledStatement,
        connections: PinnedConnections,
        retries: Retries,
        telemetry: Telemetry | None,
    ) -> None:
        self._one = statement
        self._many: CompiledStatement | None = None
        self._connections = connections
        self._retries = retries
        self.batcher: Batcher[Values, Rows] = Batcher(
            self._together,
            self._alone,
            retry_seconds=retries.deadline_seconds,
            call_seconds=retries.call_seconds,
            in_halves=True,
            kind="query",
            telemetry=telemetry,
        )

    async def _together(self, batch: Batch[Values]) -> Sequence[Rows | Alone]:
        try:
            return await self._retries.run(partial(self._fetch, batch.items), is_wanted=batch.is_wanted)
        except UnavailableError:
            raise
        except PersistenceError:
            if len(batch.items) == 1:
                raise
            return [ALONE] * len(batch.items)  # the error meets its own caller

    async def _alone(self, values: Values, _reason: Alone) -> Rows:
        [rows] = await self._retries.run(partial(self._fetch, [values]))
        return rows

    async def _fetch(self, callers: list[Values]) -> list[Rows]:
        async with self._connections.use() as connection:
            if len(callers) == 1:  # plain parameters cost the server half of what arrays of one do
                return [await connection.fetch(self._one, **callers[0])]
            if self._many is None:
                self._many = shared(self._one)
            arrays = {name: [values[name] for values in callers] for name in callers[0]}
            found: list[list[Any]] = [[] for _ in callers]
            for row in await connection.fetch(self._many, **arrays):
                found[row.ordinal - 1].append(row)
            return found  # type: ignore[return-value]  # a list of lists is one of sequences
