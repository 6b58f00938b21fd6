"""Results of tool calls, recorded so that an agent that is restarted does not repeat a call."""

from __future__ import annotations

import hashlib
from typing import Any, Generic

from sqlalchemy import Table, literal, select
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.encoding.exact_json import MAX_JSON_BYTES
from agent_persistence.errors import InvalidInputError, ThreadNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models.side_tables import MAX_TOOL_CALL_ID
from agent_persistence.repositories.locks import locked_thread
from agent_persistence.repositories.rows import check_readable
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_text


class ToolResultRepository(Generic[IdT, UserIdT]):
    """The results of tool calls in one owner's threads; deleted with their thread."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._results: Table = scope.models.side_tables.tool_results

    async def get(self, thread_id: IdT, tool_call_id: str) -> Any:
        """Return the recorded result of a tool call, or ``None`` if there is none.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored result cannot be read.
        """
        results, threads = self._results, self._scope.threads
        statement = (
            select(results.c.tool_call_id, results.c.result)
            .join(threads, threads.c.thread_id == results.c.thread_id)
            .where(
                self._scope.thread_of(self._scope.thread_id(thread_id)),
                results.c.tool_call_id == _tool_call_id(tool_call_id),
            )
        )
        row = (await self._scope.execute(statement)).one_or_none()
        if row is None:
            return None
        check_readable("tool_results", (thread_id, row.tool_call_id), row)
        return row.result

    async def record(self, thread_id: IdT, tool_call_id: str, result: Any) -> Any:
        """Record the result of a tool call, unless one is recorded; return the recorded one.

        Args:
            thread_id: the thread.
            tool_call_id: the id of the call, unique within the thread. Of an id of more than 255 characters, the hash
                is stored.
            result: any JSON value except ``None``.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadNotFoundError: the thread does not exist.
        """
        if result is None:
            raise InvalidInputError("result", "must not be None, which means that nothing is recorded")
        scope, results = self._scope, self._results
        call_id, encoded = _tool_call_id(tool_call_id), scope.json(result, "result")
        locked = locked_thread(scope, scope.thread_id(thread_id))
        values = select(
            locked.c.thread_id,
            literal(call_id, results.c.tool_call_id.type),
            literal(encoded, results.c.result.type),
        )
        statement = (
            insert(results)
            .from_select(["thread_id", "tool_call_id", "result"], values)
            # The first result stays: another process may have acted on it already.
            .on_conflict_do_nothing(index_elements=[results.c.thread_id, results.c.tool_call_id])
            .returning(results.c.thread_id, results.c.tool_call_id, results.c.created_at)
        )
        if await scope.write(statement, row_evidence(results, "thread_id", "tool_call_id", time="created_at")):
            return result
        # No row was written: the call has a result, or there is no thread. A new statement sees a result that this one
        # waited for.
        first = await self.get(thread_id, tool_call_id)
        if first is None:
            raise ThreadNotFoundError(thread_id)
        return first


def _tool_call_id(value: object) -> str:
    """Return the key of a tool call: its id, or the hash of a long one."""
    call_id = check_text(value, "tool_call_id", max_length=MAX_JSON_BYTES)
    if len(call_id) <= MAX_TOOL_CALL_ID:
        return call_id
    # Providers put signatures of a kilobyte into the id. A longer column lost: an index entry has 2,704 bytes at most.
    return f"sha256-{hashlib.sha256(call_id.encode()).hexdigest()}"
