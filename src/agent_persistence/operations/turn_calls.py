"""Saves of turns: a state and the messages that led to it, in one transaction, which other callers may share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_persistence.concurrency.batching import ALONE, Alone, Batcher
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.database.shared_statement import shared
from agent_persistence.models import Models
from agent_persistence.operations.group_commit import GroupCommit, Written, doubtful
from agent_persistence.operations.group_writes import MessageGroupWriter, StateGroupWriter, has_one_kind_of_id
from agent_persistence.operations.transactions import Transactions
from agent_persistence.records import ANY_USER, AnyUser, NewMessage, NewThread, StateRecord
from agent_persistence.repositories.locks import lock_several
from agent_persistence.repositories.messages.append import is_copied
from agent_persistence.repositories.messages.prepared import PreparedAppend, prepare_append
from agent_persistence.repositories.states.prepared import PreparedState, prepare_state
from agent_persistence.repositories.states.statements import latest_version
from agent_persistence.repositories.threads.bulk import PreparedThread, insert_threads, prepare_thread
from agent_persistence.validation import check_version

Save = Callable[[], Awaitable[StateRecord[Any]]]


@dataclass(frozen=True, slots=True)
class _Turn:
    """One save on its way.

    Attributes:
        expected: the latest version that the state may be saved over; ``None`` for any.
        thread: the thread to make if there is none.
        alone: saves the turn in a transaction of its own.
    """

    state: PreparedState[Any]
    messages: PreparedAppend[Any]
    expected: int | None
    thread: PreparedThread
    alone: Save


class TurnCalls:
    """Saves turns.

    Args:
        states, messages: write those of several callers.
        may_share: whether callers may share transactions.
    """

    def __init__(
        self,
        transactions: Transactions[Any, Any],
        group: GroupCommit,
        states: StateGroupWriter,
        messages: MessageGroupWriter,
        *,
        may_share: bool,
    ) -> None:
        self._sessions = transactions.sessions
        self._may_share = may_share
        writer = _TurnGroupWriter(self._sessions.models, states, messages)
        self._saves: Batcher[_Turn, StateRecord[Any]] = transactions.batcher(
            partial(group.run, write=writer.write), _run_alone, kind="turn"
        )

    async def put(
        self,
        thread: NewThread[Any],
        data: Any,
        messages: Sequence[NewMessage[Any]],
        *,
        user_id: Any | AnyUser,
        expected_version: int | None,
        alone: Save,
    ) -> StateRecord[Any]:
        """Save a state and messages, both or neither, and return the state.

        Args:
            thread: has an id; it is made without its contents if there is none.
            alone: saves them in a transaction of its own: where that cannot be shared, and where other callers' saves
                must not fail with it.

        Raises:
            PersistenceError: they could not be saved; the errors are those of ``alone``.
        """
        if not self._may_share or user_id is ANY_USER:
            return await alone()
        await self._sessions.ready()
        scope = self._sessions.reading(user_id)
        thread_id = scope.thread_id(thread.thread_id)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        turn = _Turn(
            prepare_state(scope, thread_id, data, None),
            prepare_append(scope, thread_id, messages, "messages"),
            expected_version,
            prepare_thread(scope, thread),
            alone,
        )
        joins = not messages or (has_one_kind_of_id(turn.messages) and not is_copied(turn.messages))
        return await self._saves.submit(turn, key=thread_id, size=turn.state.size + turn.messages.size, joins=joins)


async def _run_alone(turn: _Turn, reason: Alone) -> StateRecord[Any]:
    with doubtful(reason):
        return await turn.alone()


class _TurnGroupWriter:
    """Saves turns of several threads."""

    def __init__(self, models: Models[Any, Any], states: StateGroupWriter, messages: MessageGroupWriter) -> None:
        self._states = states
        self._messages = messages
        self._lock = lock_several(models)
        self._versions = shared(latest_version(models))
        self._insert_threads = insert_threads(models)

    async def write(self, connection: PinnedConnection, turns: list[_Turn]) -> Written[StateRecord[Any]]:
        """Save the turns; those that cannot be saved with the others are to run alone."""
        results: list[StateRecord[Any] | Alone] = [ALONE] * len(turns)
        nothing = Written(results, None)
        due = await self._due(connection, turns)
        if not due:
            return nothing
        written = await self._states.write(connection, [turn.state for turn in due])
        saved = _by_thread(written)
        if new := [turn for turn in due if turn.state.thread_id not in saved and turn.expected is None]:
            written = await self._in_new_threads(connection, new, written)
            saved = _by_thread(written)
        said = [turn.messages for turn in due if turn.state.thread_id in saved and turn.messages.messages]
        if said and ALONE in (await self._messages.write(connection, said)).results:
            # Some messages are there already: without them, their states must not be saved either.
            return nothing
        for index, turn in enumerate(turns):
            if turn in due:
                results[index] = saved.get(turn.state.thread_id, ALONE)
        return Written(results, written.evidence, written.touched)

    async def _due(self, connection: PinnedConnection, turns: list[_Turn]) -> list[_Turn]:
        """Return the first turn of each thread, except those that expect another version than the latest."""
        first: dict[Any, _Turn] = {}
        for turn in turns:
            first.setdefault(turn.state.thread_id, turn)  # a second one may depend on it
        comparing = {thread_id: turn.expected for thread_id, turn in first.items() if turn.expected is not None}
        if comparing:
            owners = [first[thread_id].state.owner for thread_id in comparing]
            rows = await connection.fetch(self._lock, thread_ids=[*comparing], owners=owners)
            locked = [row.thread_id for row in rows]
            # A second statement: a snapshot that is older than the lock could miss the latest version.
            latest = await connection.fetch(self._versions, thread_id=locked) if locked else ()
            found = {locked[row.ordinal - 1]: row.version for row in latest}
            for thread_id, expected in comparing.items():
                if found.get(thread_id) != expected:
                    del first[thread_id]
        return [*first.values()]

    async def _in_new_threads(
        self, connection: PinnedConnection, turns: list[_Turn], before: Written[StateRecord[Any]]
    ) -> Written[StateRecord[Any]]:
        """Make the threads that do not exist, save the states in them, and return them with those before."""
        threads = [turn.thread for turn in turns]
        rows = await connection.fetch(
            self._insert_threads,
            thread_ids=[thread.thread_id for thread in threads],
            owners=[turn.state.owner for turn in turns],
            thread_name=[thread.name for thread in threads],
            meta=[thread.meta for thread in threads],
        )
        made = {row.thread_id for row in rows}
        if not made:
            return before
        states = [turn.state for turn in turns if turn.state.thread_id in made]
        after = await self._states.write(connection, states)
        return Written([*before.results, *after.results], after.evidence, before.touched | after.touched)


def _by_thread(written: Written[StateRecord[Any]]) -> dict[Any, StateRecord[Any]]:
    return {state.thread_id: state for state in written.results if not isinstance(state, Alone)}
