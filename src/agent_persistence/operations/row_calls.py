"""Writes of one row by statements that callers share: changes of threads, results of tool calls, deleted messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any

from agent_persistence.concurrency.batching import ALONE, Alone, Batcher
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.models.base import table_of
from agent_persistence.operations.group_commit import GroupCommit, Written, doubtful
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import ANY_USER, AnyUser, ThreadRecord, Unchanged
from agent_persistence.repositories.messages.statements import delete_messages
from agent_persistence.repositories.threads.repository import thread_changes, thread_record
from agent_persistence.repositories.threads.statements import change_threads
from agent_persistence.repositories.tool_results import check_result, record_results
from agent_persistence.sessions.commit_evidence import CommitEvidence, RowEvidence, row_evidence

Write = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Row:
    """One write on its way.

    Attributes:
        key: of the row in its table.
        values: the parameters of the statement.
        answer: makes what the caller gets of the row that the statement returns.
        alone: writes it in a transaction of its own: where no row is returned, it tells why.
    """

    key: Any
    values: dict[str, Any]
    answer: Callable[[Any], Any]
    alone: Write


class RowCalls:
    """Writes rows of threads. ``alone`` is what writes one in a transaction of its own.

    Threads and states are not deleted here: one may hold a million rows, and the other callers would wait for it.
    """

    def __init__(self, transactions: Transactions[Any, Any], group: GroupCommit) -> None:
        self._transactions = transactions
        self._sessions = transactions.sessions
        self._group = group
        self._batchers: dict[str, Batcher[_Row, Any]] = {}  # by SQL, of which there are few

    async def change_thread(
        self,
        thread_id: Any,
        name: str | Unchanged | None,
        meta: Mapping[str, Any] | Unchanged,
        *,
        user_id: Any | AnyUser,
        alone: Write,
    ) -> ThreadRecord[Any, Any]:
        """Change a thread, and return it; see ``ThreadRepository.update``."""
        if not await self._may_share(user_id):
            return await alone()  # type: ignore[no-any-return]
        models, scope = self._sessions.models, self._sessions.reading(user_id)
        values = thread_changes(scope, name, meta)
        evidence = row_evidence(table_of(models.Thread), "thread_id", *values, time="updated_at")
        statement = change_threads(models, tuple(values))
        values |= {"thread_ids": scope.thread_id(thread_id), "owners": scope.owner}
        row = _Row(values["thread_ids"], values, thread_record, alone)
        return await self._submit(row, statement, evidence, attrgetter("thread_id"))  # type: ignore[no-any-return]

    async def record_result(
        self, thread_id: Any, tool_call_id: str, result: Any, *, user_id: Any | AnyUser, alone: Write
    ) -> Any:
        """Record the result of a tool call, and return the recorded one; see ``ToolResultRepository.record``."""
        if not await self._may_share(user_id):
            return await alone()
        models, scope = self._sessions.models, self._sessions.reading(user_id)
        call_id, encoded = check_result(scope, tool_call_id, result)
        values = {"thread_ids": scope.thread_id(thread_id), "owners": scope.owner}
        values |= {"tool_call_id": call_id, "result": encoded}
        evidence = row_evidence(models.side_tables.tool_results, "thread_id", "tool_call_id", time="created_at")
        # Repeatable: a result that is there stays.
        row = _Row((values["thread_ids"], call_id), values, lambda _row: result, alone)
        key_of = attrgetter("thread_id", "tool_call_id")
        return await self._submit(row, record_results(models), evidence, key_of, is_repeatable=True)

    async def delete_message(self, thread_id: Any, message_id: Any, *, user_id: Any | AnyUser, alone: Write) -> bool:
        """Delete a message, and return whether it existed; see ``MessageRepository.delete``."""
        if not await self._may_share(user_id):
            return await alone()  # type: ignore[no-any-return]
        models, scope = self._sessions.models, self._sessions.reading(user_id)
        values = {"thread_ids": scope.thread_id(thread_id), "owners": scope.owner}
        values |= {"message_id": scope.message_id(message_id)}
        evidence = row_evidence(table_of(models.Message), "thread_id", "seq")
        row = _Row((values["thread_ids"], values["message_id"]), values, lambda _row: True, alone)
        key_of = attrgetter("thread_id", "message_id")
        return await self._submit(row, delete_messages(models), evidence, key_of)  # type: ignore[no-any-return]

    async def _may_share(self, user_id: Any | AnyUser) -> bool:
        await self._sessions.ready()
        return self._sessions.groups and user_id is not ANY_USER

    async def _submit(
        self,
        row: _Row,
        statement: CompiledStatement,
        evidence: Callable[[Any], RowEvidence],
        key_of: Callable[[Any], Any],
        *,
        is_repeatable: bool = False,
    ) -> Any:
        batcher = self._batchers.get(statement.text)
        if batcher is None:
            write = partial(_write, statement, evidence, key_of)
            run = partial(self._group.run, write=write, is_repeatable=(lambda _row: True) if is_repeatable else None)
            batcher = self._batchers[statement.text] = self._transactions.batcher(run, _run_alone, kind="row")
        return await batcher.submit(row, key=row.values["thread_ids"])


async def _run_alone(row: _Row, reason: Alone) -> Any:
    with doubtful(reason):
        return await row.alone()


async def _write(
    statement: CompiledStatement,
    evidence: Callable[[Any], RowEvidence],
    key_of: Callable[[Any], Any],
    connection: PinnedConnection,
    rows: list[_Row],
) -> Written[Any]:
    """Write the first row of each key; others of a key, and those that could not be written, are to run alone."""
    first: dict[Any, int] = {}
    for index, row in enumerate(rows):
        first.setdefault(row.key, index)
    chosen = [rows[index].values for index in first.values()]
    found = await connection.fetch(statement, **{name: [values[name] for values in chosen] for name in chosen[0]})
    results: list[Any] = [ALONE] * len(rows)
    for one in found:
        index = first[key_of(one)]
        results[index] = rows[index].answer(one)
    # One row proves the transaction for all: they commit together.
    return Written(results, (lambda: CommitEvidence(None, found[-1], made=[evidence(found[-1])])) if found else None)
