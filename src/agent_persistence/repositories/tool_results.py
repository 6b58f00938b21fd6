"""Results of tool calls, recorded so that an agent that is restarted does not repeat a call."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Generic

from sqlalchemy import Text, bindparam, select, true
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.encoding.exact_json import MAX_JSON_BYTES, EncodedJSON
from agent_persistence.errors import InvalidInputError, ThreadNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.models.side_tables import MAX_TOOL_CALL_ID
from agent_persistence.repositories.locks import locked_threads, new_rows, rows_of_locked
from agent_persistence.repositories.rows import check_readable
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS, row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_text


class ToolResultRepository(Generic[IdT, UserIdT]):
    """The results of tool calls in one owner's threads; deleted with their thread."""

    def __init__(self, scope: Scope[IdT, UserIdT]) -> None:
        self._scope = scope

    async def get(self, thread_id: IdT, tool_call_id: str) -> Any:
        """Return the recorded result of a tool call, or ``None`` if there is none.

        Raises:
            InvalidInputError: an argument cannot be valid.
            CorruptRowError: the stored result cannot be read.
        """
        scope = self._scope
        rows = await scope.fetch(
            recorded_result(scope.models, of_any_user=scope.is_any_user),
            thread_id=scope.thread_id(thread_id),
            owner=scope.owner,
            tool_call_id=_tool_call_id(tool_call_id),
        )
        if not rows:
            return None
        [row] = rows
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
        scope = self._scope
        call_id, encoded = check_result(scope, tool_call_id, result)
        added = await scope.write(
            record_result(scope.models, of_any_user=scope.is_any_user),
            row_evidence(scope.models.side_tables.tool_results, "thread_id", "tool_call_id", time="created_at"),
            thread_ids=scope.thread_id(thread_id),
            owners=scope.owner,
            tool_call_id=call_id,
            result=encoded,
        )
        if added:
            return result
        # No row was written: the call has a result, or there is no thread. A new statement sees a result that this one
        # waited for.
        first = await self.get(thread_id, tool_call_id)
        if first is None:
            raise ThreadNotFoundError(thread_id)
        return first


@lru_cache(MODELS_AT_ONCE)
def recorded_result(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Read the result of the call ``tool_call_id`` in the thread ``thread_id`` of ``owner``."""
    results, thread = models.side_tables.tool_results, table_of(models.Thread)
    return CompiledStatement(
        select(results.c.tool_call_id, results.c.result)
        .join(thread, thread.c.thread_id == results.c.thread_id)
        .where(
            results.c.thread_id == bindparam("thread_id"),
            true() if of_any_user else thread.c.user_id == bindparam("owner"),
            results.c.tool_call_id == bindparam("tool_call_id"),
        )
    )


@lru_cache(MODELS_AT_ONCE)
def record_result(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Record ``result`` of the call ``tool_call_id`` in the thread ``thread_ids`` of ``owners``, unless it has one."""
    return _record(models, of_any_user=of_any_user, waits=True, one=True)


@lru_cache(MODELS_AT_ONCE)
def record_results(models: Models[Any, Any]) -> CompiledStatement:
    """Record the results of several threads' calls, given as arrays, except in threads that somebody has locked."""
    return _record(models, of_any_user=False, waits=False, one=False)


def check_result(scope: Scope[Any, Any], tool_call_id: object, result: Any) -> tuple[str, EncodedJSON]:
    """Return the key of a tool call, and its encoded result.

    Raises:
        InvalidInputError: an argument cannot be stored.
    """
    if result is None:
        raise InvalidInputError("result", "must not be None, which means that nothing is recorded")
    return _tool_call_id(tool_call_id), scope.json(result, "result")


def _record(models: Models[Any, Any], *, of_any_user: bool, waits: bool, one: bool) -> CompiledStatement:
    results = models.side_tables.tool_results
    rows = new_rows(models, {"tool_call_id": Text(), "result": results.c.result.type}, one=one)
    locked = locked_threads(models, of_any_user=of_any_user, waits=waits, one=one)
    source = rows_of_locked(rows, locked, of_any_user=of_any_user)
    values = select(locked.c.thread_id, rows.c.tool_call_id, rows.c.result).select_from(source)
    return CompiledStatement(
        insert(results)
        .from_select(["thread_id", "tool_call_id", "result"], values, include_defaults=False)
        # The first result stays: another process may have acted on it already.
        .on_conflict_do_nothing(index_elements=[results.c.thread_id, results.c.tool_call_id])
        .returning(results.c.thread_id, results.c.tool_call_id, results.c.created_at, *TRANSACTION_MARKS)
    )


def _tool_call_id(value: object) -> str:
    """Return the key of a tool call: its id, or the hash of a long one."""
    call_id = check_text(value, "tool_call_id", max_length=MAX_JSON_BYTES)
    if len(call_id) <= MAX_TOOL_CALL_ID:
        return call_id
    # Providers put signatures of a kilobyte into the id. A longer column lost: an index entry has 2,704 bytes at most.
    return f"sha256-{hashlib.sha256(call_id.encode()).hexdigest()}"
