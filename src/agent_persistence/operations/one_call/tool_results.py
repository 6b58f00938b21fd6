"""``ToolResultRepository``, one call at a time."""

from __future__ import annotations

from typing import Any

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.one_call.base import OneCall
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import AnyUser
from agent_persistence.repositories import ToolResultRepository


class OneCallToolResults(OneCall[ToolResultRepository[IdT, UserIdT], IdT, UserIdT]):
    """``ToolResultRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the thread, or ``ANY_USER``.
    """

    async def get(self, thread_id: IdT, tool_call_id: str, *, user_id: UserIdT | AnyUser) -> Any:
        """Return the recorded result of a tool call, or ``None`` if there is none.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored result cannot be read.
        """
        return await self._look_up(ToolResultRepository[IdT, UserIdT].get, user_id, thread_id, tool_call_id)

    async def record(self, thread_id: IdT, tool_call_id: str, result: Any, *, user_id: UserIdT | AnyUser) -> Any:
        """Record the result of a tool call, unless one is recorded; return the recorded one.

        Args:
            thread_id: the thread.
            tool_call_id: the id of the call, unique within the thread.
            result: any JSON value except ``None``.
            user_id: the owner, or ``ANY_USER``.

        Raises:
            InvalidInputError: an argument cannot be stored.
            ThreadNotFoundError: the thread does not exist.
        """
        return await self._batched.rows.record_result(
            thread_id,
            tool_call_id,
            result,
            user_id=user_id,
            alone=lambda: self._write(
                ToolResultRepository[IdT, UserIdT].record, user_id, thread_id, tool_call_id, result
            ),
        )

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> ToolResultRepository[IdT, UserIdT]:
        return repositories.tool_results
