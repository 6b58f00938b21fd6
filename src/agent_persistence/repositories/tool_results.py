"""Tool results: what a tool call returned, so that an agent that starts again does not make it twice."""

from __future__ import annotations

from typing import Any, Generic

from sqlalchemy import Table, literal, select
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.errors import InvalidInputError, ThreadNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models.side_tables import MAX_TOOL_CALL_ID
from agent_persistence.repositories.locks import locked_thread
from agent_persistence.repositories.rows import check_readable
from agent_persistence.sessions.commit_evidence import row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_text


class ToolResultRepository(Generic[IdT, UserIdT]):
    """What the tool calls of one owner's threads returned. They go with their thread."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope
        self._results: Table = scope.models.side_tables.tool_results

    async def get(self, thread_id: IdT, tool_call_id: str) -> Any:
        """Return what a tool call returned, or ``None`` where nothing is recorded."""
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
        """Record what a tool call returned, once: return what counts, which is what was recorded first.

        Args:
            result: any JSON value but ``None``.

        Raises:
            ThreadNotFoundError: there is no such thread.
        """
        if result is None:
            raise InvalidInputError("result", "must not be None, which stands for no record")
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
            .on_conflict_do_nothing(index_elements=[results.c.thread_id, results.c.tool_call_id])
            .returning(results.c.thread_id, results.c.tool_call_id, results.c.created_at)
        )
        if await scope.write(statement, row_evidence(results, "thread_id", "tool_call_id", time="created_at")):
            return result
        first = await self.get(thread_id, tool_call_id)
        if first is None:
            raise ThreadNotFoundError(thread_id)
        return first


def _tool_call_id(value: object) -> str:
    return check_text(value, "tool_call_id", max_length=MAX_TOOL_CALL_ID)
