"""States and messages of several callers, written by one statement."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from agent_persistence.concurrency.batching import ALONE, Alone
from agent_persistence.database.connections import PinnedConnection
from agent_persistence.encoding.recent_states import RecentStates
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.operations.group_commit import Written
from agent_persistence.records import MessageRecord, StateRecord, Touched, TouchedState
from agent_persistence.repositories.messages.prepared import PreparedAppend
from agent_persistence.repositories.messages.rows import appended, appended_trace
from agent_persistence.repositories.messages.statements import append_messages, columns_of_messages
from agent_persistence.repositories.states.prepared import PreparedState, columns_of_states
from agent_persistence.repositories.states.repository import saved_trace
from agent_persistence.repositories.states.statements import save_states
from agent_persistence.sessions.commit_evidence import CommitEvidence, RowEvidence
from agent_persistence.sessions.scope import StoreOptions

SavedTogether = Written[StateRecord[Any]]
AppendedTogether = Written[tuple[MessageRecord[Any], ...]]


def writer_of_states(
    models: Models[Any, Any], limits: StoreOptions[Any], recent: RecentStates
) -> Callable[[PinnedConnection, list[PreparedState[Any]]], Awaitable[SavedTogether]]:
    """Make what saves several states."""
    trace = saved_trace(table_of(models.State))
    statements = {
        (changes, one): save_states(models, touch_seconds=limits.touch_interval, changes=changes, waits=False, one=one)
        for changes in (False, True)
        for one in (False, True)
    }

    async def write(lease: PinnedConnection, states: list[PreparedState[Any]]) -> SavedTogether:
        places = _of_one_owner_a_thread(states)
        changes = any(states[place].change for place in places)
        one = len(places) == 1
        columns = columns_of_states([states[place] for place in places], changes=changes, one=one)
        rows = await lease.fetch(statements[changes, one], **columns)
        rows_of = _by_thread(rows, key=lambda row: int(row.state_id))
        written = set(rows_of)
        results: list[StateRecord[Any] | Alone] = [ALONE] * len(states)
        touched: Touched = {}
        for place in places:
            state, mine = states[place], rows_of[states[place].thread_id]
            if mine:
                row = mine.popleft()
                state.remember(recent, row)
                touched[TouchedState(state.thread_id, state.owner)] = state.saved(row) if limits.is_cached else None
                results[place] = state.record(row)
            elif state.thread_id in written:  # a part of what a thread was to get, and nobody knows which
                return Written([ALONE] * len(states), None)
        return Written(results, _proof(rows, trace), touched)

    return write


def writer_of_messages(
    models: Models[Any, Any], touch_seconds: float
) -> Callable[[PinnedConnection, list[PreparedAppend[Any]]], Awaitable[AppendedTogether]]:
    """Make what adds the messages of several callers."""
    trace = appended_trace(table_of(models.Message))
    statements = {
        (with_ids, one): append_messages(models, with_ids=with_ids, touch_seconds=touch_seconds, waits=False, one=one)
        for with_ids in (False, True)
        for one in (False, True)
    }

    async def write(lease: PinnedConnection, items: list[PreparedAppend[Any]]) -> AppendedTogether:
        results: list[tuple[MessageRecord[Any], ...] | Alone] = [ALONE] * len(items)
        found: list[Any] = []
        possible = _of_one_owner_a_thread(items)
        for with_ids in (False, True):
            places = [place for place in possible if _has_ids(items[place]) is with_ids]
            if places:
                new = _flat([items[place] for place in places])
                one = len(new) == 1
                values = columns_of_messages(new, with_ids=with_ids, one=one)
                rows = await lease.fetch(statements[with_ids, one], **values)
                match = _by_id if with_ids else _by_place
                for place, result in zip(places, match([items[place] for place in places], rows), strict=True):
                    results[place] = result
                found += rows
        kept = sum(len(result) for result in results if not isinstance(result, Alone))
        if kept != len(found):  # a part of somebody's messages: all or none
            return Written([ALONE] * len(items), None)
        return Written(results, _proof(found, trace))

    return write


def has_one_kind_of_id(item: PreparedAppend[Any]) -> bool:
    """Whether one statement can add the messages: all of them have ids, or the database makes them all."""
    return len({message.message_id is None for message in item.messages}) == 1


def is_repeatable(item: PreparedAppend[Any]) -> bool:
    """Whether adding it twice leaves what adding it once does: its ids make it known again.

    Several messages are added by one statement all or none only if no other message can have one of their ids.
    """
    return item.has_new_ids or (len(item.messages) == 1 and _has_ids(item))


def _of_one_owner_a_thread(items: Sequence[PreparedState[Any] | PreparedAppend[Any]]) -> list[int]:
    """The places of what can share a statement: by its thread alone it must be clear whose a row is."""
    owner_of: dict[Any, Any] = {}
    return [place for place, item in enumerate(items) if owner_of.setdefault(item.thread_id, item.owner) == item.owner]


def _by_thread(rows: Sequence[Any], key: Callable[[Any], int]) -> defaultdict[Any, deque[Any]]:
    found: defaultdict[Any, deque[Any]] = defaultdict(deque)
    for row in sorted(rows, key=key):
        found[row.thread_id].append(row)
    return found


def _has_ids(item: PreparedAppend[Any]) -> bool:
    return item.messages[0].message_id is not None


def _flat(items: Sequence[PreparedAppend[Any]]) -> list[tuple[Any, Any, Any]]:
    return [(item.thread_id, item.owner, message) for item in items for message in item.messages]


def _by_id(items: Sequence[PreparedAppend[Any]], rows: Sequence[Any]) -> list[tuple[MessageRecord[Any], ...] | Alone]:
    """A row is its message's; of two callers with the same message the second one is to find it there."""
    row_of = {(row.thread_id, row.message_id): row for row in rows}
    results: list[tuple[MessageRecord[Any], ...] | Alone] = []
    for item in items:
        mine = [row_of.pop((item.thread_id, message.message_id), None) for message in item.messages]
        results.append(_records(item, mine))
    return results


def _by_place(
    items: Sequence[PreparedAppend[Any]], rows: Sequence[Any]
) -> list[tuple[MessageRecord[Any], ...] | Alone]:
    """The rows of a thread are numbered in the order of its messages."""
    rows_of = _by_thread(rows, key=lambda row: int(row.seq))
    results: list[tuple[MessageRecord[Any], ...] | Alone] = []
    for item in items:
        mine = rows_of[item.thread_id]
        taken = [mine.popleft() if mine else None for _ in item.messages]
        results.append(_records(item, taken))
    return results


def _records(item: PreparedAppend[Any], rows: Sequence[Any]) -> tuple[MessageRecord[Any], ...] | Alone:
    if None in rows:
        return ALONE
    return tuple(appended(item.thread_id, message, row) for message, row in zip(item.messages, rows, strict=True))


def _proof(rows: Sequence[Any], trace: Callable[[Any], RowEvidence]) -> CommitEvidence | None:
    if not rows:
        return None
    last = max(rows, key=lambda row: row.created_at)
    return CommitEvidence(None, last, made=[trace(last)])
