"""Statements that write states and messages of several callers at once."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Final

from agent_persistence.concurrency.batching import ALONE, Alone
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.encoding.recent_states import RecentStates
from agent_persistence.errors import CommitUnknownError, UnavailableError
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.operations.group_commit import Written
from agent_persistence.records import MessageRecord, StateRecord, Touched, TouchedState
from agent_persistence.repositories.messages.prepared import PreparedAppend
from agent_persistence.repositories.messages.rows import appended
from agent_persistence.repositories.messages.statements import append_messages, columns_of_messages
from agent_persistence.repositories.states.prepared import PreparedState, columns_of_states
from agent_persistence.repositories.states.statements import save_states, saved_states
from agent_persistence.sessions.commit_evidence import CommitEvidence, RowEvidence, row_evidence
from agent_persistence.sessions.scope import StoreOptions

_DELETED: Final = "states of the thread were deleted before the outcome was known; read the thread"

Appended = tuple[MessageRecord[Any], ...]
Evidence = Callable[[Any], RowEvidence]


class StateGroupWriter:
    """Saves states of several threads by one statement."""

    def __init__(self, models: Models[Any, Any], options: StoreOptions[Any], recent: RecentStates) -> None:
        self._options = options
        self._recent = recent
        self._evidence = row_evidence(table_of(models.State), "thread_id", "state_id", time="created_at")
        self._find = saved_states(models)
        # One sequence numbers the states of all threads.
        self._latest_seen = 0
        self._statements = {
            # waits=False: a locked thread would let every caller of the batch wait; it is saved alone instead.
            (changes, one): save_states(
                models, touch_seconds=options.touch_interval, changes=changes, waits=False, one=one
            )
            for changes in (False, True)
            for one in (False, True)
        }

    async def write(self, connection: PinnedConnection, states: list[PreparedState[Any]]) -> Written[StateRecord[Any]]:
        """Save the states; those that cannot share the statement are to run alone."""
        indexes = _of_one_owner_a_thread(states)
        for state in states:
            state.after = self._latest_seen
        changes = any(states[index].change for index in indexes)
        one = len(indexes) == 1
        columns = columns_of_states([states[index] for index in indexes], changes=changes, one=one)
        rows = await connection.fetch(self._statements[changes, one], **columns)
        return self._written(states, rows, _evidence(rows, self._evidence))

    async def find(
        self, connection: PinnedConnection, states: list[PreparedState[Any]], seconds: float
    ) -> Sequence[StateRecord[Any] | CommitUnknownError | Alone] | None:
        """Find what a statement saved whose reply was lost, once it is certain that it no longer runs.

        Args:
            connection: where to look.
            states: what the statement was to save.
            seconds: how long ago it was sent, at most.

        Returns:
            What ``write`` returned as results, and an error for a state that may have been saved and deleted since;
            ``None`` if nothing was saved.

        Raises:
            UnavailableError: the server is a standby, which may not have received them yet.
        """
        columns = {
            "thread_ids": [state.thread_id for state in states],
            "marks": [state.mark for state in states],
            "afters": [state.after for state in states],
        }
        rows = await connection.fetch(self._find, **columns, seconds=seconds)
        if any(row.in_recovery for row in rows):
            raise UnavailableError("a standby answered; ask the primary")
        found = [row for row in rows if row.mark is not None]
        in_doubt = {row.thread_id for row in rows if row.mark is None and row.may_be_deleted}
        if not found and not in_doubt:
            return None
        results = self._written(states, found, None).results
        return [
            CommitUnknownError(_DELETED) if result is ALONE and state.thread_id in in_doubt else result
            for state, result in zip(states, results, strict=True)
        ]

    def _written(
        self, states: list[PreparedState[Any]], rows: Sequence[Any], evidence: Callable[[], CommitEvidence] | None
    ) -> Written[StateRecord[Any]]:
        row_of = {row.mark: row for row in rows}
        self._latest_seen = max(self._latest_seen, *(row.state_id for row in rows), 0)
        results: list[StateRecord[Any] | Alone] = []
        touched: Touched = {}
        for state in states:
            row = row_of.get(state.mark)
            if row is not None:
                state.remember(self._recent, row)
                if self._options.is_cached:
                    touched[TouchedState(state.thread_id, state.owner)] = state.saved(row)
            results.append(ALONE if row is None else state.record(row))
        return Written(results, evidence, touched)


class MessageGroupWriter:
    """Adds messages of several callers by one statement, or two: of messages with ids, and without."""

    def __init__(self, models: Models[Any, Any], touch_seconds: float) -> None:
        self._evidence = row_evidence(table_of(models.Message), "thread_id", "seq", time="created_at")
        self._statements = {
            (with_ids, one): append_messages(
                models, with_ids=with_ids, touch_seconds=touch_seconds, waits=False, one=one
            )
            for with_ids in (False, True)
            for one in (False, True)
        }

    async def write(self, connection: PinnedConnection, items: list[PreparedAppend[Any]]) -> Written[Appended]:
        """Add the messages of each item, all or none; items that cannot share a statement are to run alone."""
        results: list[Appended | Alone] = [ALONE] * len(items)
        added: list[Any] = []
        possible = _of_one_kind_a_thread(items)
        for with_ids in (False, True):
            indexes = [index for index in possible if _has_ids(items[index]) is with_ids]
            if indexes:
                new = _flat([items[index] for index in indexes])
                one = len(new) == 1
                values = columns_of_messages(new, with_ids=with_ids, one=one)
                rows = await connection.fetch(self._statements[with_ids, one], **values)
                match = _match_by_id if with_ids else _match_by_order
                for index, result in zip(indexes, match([items[index] for index in indexes], rows), strict=True):
                    results[index] = result
                added += rows
        kept = sum(len(result) for result in results if not isinstance(result, Alone))
        if kept != len(added):  # some of a caller's messages: all or none
            return Written([ALONE] * len(items), None)
        return Written(results, _evidence(added, self._evidence))


def has_one_kind_of_id(item: PreparedAppend[Any]) -> bool:
    """Whether one statement can add the messages: all of them have ids, or the database makes all ids."""
    return len({message.message_id is None for message in item.messages}) == 1


def is_repeatable(item: PreparedAppend[Any]) -> bool:
    """Whether adding the messages twice leaves what adding them once does: the second time their ids are recognised.

    One statement adds several messages all or none only if no other message can have one of their ids.
    """
    return item.has_new_ids or (len(item.messages) == 1 and _has_ids(item))


def _of_one_owner_a_thread(items: Sequence[PreparedState[Any] | PreparedAppend[Any]]) -> list[int]:
    """Return the indexes of items that can share a statement: its rows name their thread, not the owner given."""
    owner_of: dict[Any, Any] = {}
    return [index for index, item in enumerate(items) if owner_of.setdefault(item.thread_id, item.owner) == item.owner]


def _of_one_kind_a_thread(items: Sequence[PreparedAppend[Any]]) -> list[int]:
    """Return the indexes of items that can share two statements, one for each kind of ids.

    For each thread, those up to the first of another kind: the statement of that kind would change their order.
    """
    kind_of: dict[Any, bool] = {}
    ended: set[Any] = set()
    possible = []
    for index in _of_one_owner_a_thread(items):
        thread_id, kind = items[index].thread_id, _has_ids(items[index])
        if kind_of.setdefault(thread_id, kind) is not kind:
            ended.add(thread_id)
        if thread_id not in ended:
            possible.append(index)
    return possible


def _by_thread(rows: Sequence[Any], order: str) -> defaultdict[Any, deque[Any]]:
    found: defaultdict[Any, deque[Any]] = defaultdict(deque)
    for row in sorted(rows, key=attrgetter(order)):
        found[row.thread_id].append(row)
    return found


def _has_ids(item: PreparedAppend[Any]) -> bool:
    return item.messages[0].message_id is not None


def _flat(items: Sequence[PreparedAppend[Any]]) -> list[tuple[Any, Any, Any]]:
    return [(item.thread_id, item.owner, message) for item in items for message in item.messages]


def _match_by_id(items: Sequence[PreparedAppend[Any]], rows: Sequence[Any]) -> list[Appended | Alone]:
    """Match rows to items by message id. Of two callers with the same message, the second runs alone and finds it."""
    row_of = {(row.thread_id, row.message_id): row for row in rows}
    results: list[Appended | Alone] = []
    for item in items:
        mine = [row_of.pop((item.thread_id, message.message_id), None) for message in item.messages]
        results.append(_records(item, mine))
    return results


def _match_by_order(items: Sequence[PreparedAppend[Any]], rows: Sequence[Any]) -> list[Appended | Alone]:
    """Match rows to items by position: the rows of a thread are numbered in the order of its messages."""
    rows_of = _by_thread(rows, "seq")
    results: list[Appended | Alone] = []
    for item in items:
        mine = rows_of[item.thread_id]
        results.append(_records(item, [mine.popleft() if mine else None for _ in item.messages]))
    return results


def _records(item: PreparedAppend[Any], rows: Sequence[Any]) -> Appended | Alone:
    if None in rows:
        return ALONE
    return tuple(appended(message, *row[:5]) for message, row in zip(item.messages, rows, strict=True))


def _evidence(rows: Sequence[Any], evidence: Evidence) -> Callable[[], CommitEvidence] | None:
    return partial(_evidence_of, rows, evidence) if rows else None


def _evidence_of(rows: Sequence[Any], evidence: Evidence) -> CommitEvidence:
    # One row proves the transaction for all: they commit together.
    last = max(rows, key=attrgetter("created_at"))
    return CommitEvidence(None, last, made=[evidence(last)])
