"""Two more ways to write many messages by hand; the fastest of them and of ``unnest`` is the floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from benchmarks import floor_sql as sql
from benchmarks.contender import Thread
from benchmarks.floor import Floor, MessageRow, appended, columns_of


class _Bulk(Floor):
    measured = frozenset({"append_messages"})
    grows = False

    async def _lock(self, connection: Any, thread: Thread) -> None:
        if not await connection.fetchrow(sql.LOCK, *thread):
            raise LookupError(thread.id)


class FloorCopy(_Bulk):
    """COPY within a transaction, under the thread's lock; then the rows are read back.

    COPY knows no ON CONFLICT: a message that is there already would fail it, and be left to ``unnest``.
    """

    name: ClassVar[str] = "floor copy"

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> list[MessageRow]:
        """Copy messages into the table."""
        rows = [(thread.id, *columns_of(message)) for message in messages]
        async with self.pool.acquire() as connection, connection.transaction():
            await self._lock(connection, thread)
            await connection.copy_records_to_table("messages", records=rows, columns=["thread_id", *sql.COLUMNS])
            ids = [row[1] for row in rows]
            written = await connection.fetch(sql.READ_BACK, thread.id, ids)
        return [appended(row, message) for row, message in zip(written, messages, strict=True)]


class FloorExecutemany(_Bulk):
    """One prepared INSERT for each message, sent without waiting in between."""

    name: ClassVar[str] = "floor executemany"

    async def append_messages(self, thread: Thread, messages: Sequence[dict[str, Any]]) -> list[MessageRow]:
        """Insert messages one by one."""
        rows = [(thread.id, *columns_of(message)) for message in messages]
        async with self.pool.acquire() as connection, connection.transaction():
            await self._lock(connection, thread)
            written = await connection.fetchmany(sql.INSERT_ONE, rows)
        return [appended(row, message) for row, message in zip(written, messages, strict=True)]
