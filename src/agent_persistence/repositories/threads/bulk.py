"""Threads added with their messages and states by COPY, several times as fast as by INSERT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Interval, Text, delete, func, literal_column, select
from sqlalchemy.dialects.postgresql import insert

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.encoding.exact_json import EncodedJSON, decode_json
from agent_persistence.errors import CheckpointingDisabledError, ThreadExistsError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.models import ExactJSON, Models
from agent_persistence.models.base import table_of
from agent_persistence.records import NewThread, TouchedState
from agent_persistence.repositories.locks import new_rows
from agent_persistence.repositories.messages.append import MessageAppender
from agent_persistence.repositories.messages.copy import copy_messages, copy_rows
from agent_persistence.repositories.messages.prepared import PreparedAppend, PreparedMessage, prepare_messages
from agent_persistence.repositories.rows import json_object
from agent_persistence.repositories.states.prepared import prepare_state
from agent_persistence.repositories.states.repository import save_state
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS, row_evidence
from agent_persistence.sessions.scope import Scope
from agent_persistence.validation import check_name


class PreparedThread(NamedTuple):
    """A thread that was checked and encoded.

    Attributes:
        thread_id: ``None`` where the database makes the id.
    """

    thread_id: Any
    name: str | None
    meta: EncodedJSON
    messages: Sequence[PreparedMessage[Any]]
    states: Sequence[EncodedJSON]


def prepare_thread(scope: Scope[IdT, Any], new: NewThread[IdT], prefix: str = "") -> PreparedThread:
    """Check and encode a thread with its messages and states, before any SQL runs.

    Args:
        scope: the owner and the options.
        new: the thread.
        prefix: stands before the names of its fields in errors.

    Raises:
        InvalidInputError: a part of it cannot be stored; ``field`` names it.
        CheckpointingDisabledError: it has states, and the settings refuse states.
    """
    limits = scope.options
    if new.states and not limits.save_states:
        raise CheckpointingDisabledError
    return PreparedThread(
        scope.make_id() if new.thread_id is None else scope.thread_id(new.thread_id),
        check_name(scope.clean(new.name, f"{prefix}name"), f"{prefix}name"),
        scope.json(json_object(new.meta, f"{prefix}meta"), f"{prefix}meta"),
        prepare_messages(scope, new.messages, f"{prefix}messages"),
        [scope.json(state, f"{prefix}states[{index}]") for index, state in enumerate(new.states)][-limits.max_states :],
    )


async def add_threads(scope: Scope[IdT, UserIdT], owner: UserIdT, threads: Sequence[PreparedThread]) -> None:
    """Insert the rows of threads that have ids, without their messages and states.

    Raises:
        ThreadExistsError: an id is taken, or given twice.
    """
    ids = [thread.thread_id for thread in threads]
    rows = await scope.write(
        insert_threads(scope.models),
        row_evidence(scope.threads, "thread_id", time="created_at"),
        thread_ids=ids,
        owners=[owner] * len(threads),
        thread_name=[thread.name for thread in threads],
        meta=[thread.meta for thread in threads],
    )
    if len(rows) < len(threads):
        added = [row.thread_id for row in rows]
        # All or none: a caller that catches the error and commits must not keep some of them.
        mine = delete(scope.threads).where(scope.threads.c.thread_id.in_(added)).returning(scope.threads.c.thread_id)
        await scope.write(mine, row_evidence(scope.threads, "thread_id"))
        raise ThreadExistsError(next(iter(Counter(ids) - Counter(added))))


async def fill_threads(scope: Scope[IdT, UserIdT], owner: UserIdT, threads: Mapping[IdT, PreparedThread]) -> None:
    """Add the messages and states of threads that this transaction has inserted."""
    # COPY writes messages with ids before those without, so a thread that mixes them would lose its order.
    copied = {one: thread for one, thread in threads.items() if scope.can_copy and _has_one_kind_of_id(thread)}
    messages = [(one, owner, message) for one, thread in copied.items() for message in thread.messages]
    await copy_messages(scope, messages)
    states = [(one, state) for one, thread in copied.items() for state in thread.states]
    await copy_rows(
        scope, scope.states, {"thread_id": [one for one, _ in states], "state_data": [one for _, one in states]}
    )
    for one, thread in threads.items():
        if one not in copied:
            await _insert_contents(scope, one, thread)
        elif thread.states:
            scope.touch(TouchedState(one, owner))


async def _insert_contents(scope: Scope[IdT, UserIdT], thread_id: IdT, thread: PreparedThread) -> None:
    if thread.messages:
        await MessageAppender(scope).append(PreparedAppend(thread_id, scope.owner, thread.messages))
    for state in thread.states:
        await save_state(scope, prepare_state(scope, thread_id, decode_json(state.utf8), None))


def _has_one_kind_of_id(thread: PreparedThread) -> bool:
    return len({message.message_id is None for message in thread.messages}) < 2  # noqa: PLR2004 - of two kinds


@lru_cache(MODELS_AT_ONCE)
def insert_threads(models: Models[Any, Any]) -> CompiledStatement:
    """Add the threads ``thread_ids`` of ``owners``; returns a row for each whose id was not taken."""
    thread = table_of(models.Thread)
    kinds = {"thread_name": Text(), "meta": ExactJSON()}
    rows = new_rows(models, kinds)
    # A microsecond apart, so that lists by age show them in their order.
    made_at = func.now() + rows.c.ordinal * literal_column("interval '1 microsecond'", Interval())
    values = select(rows.c.thread_id, rows.c.owner, *(rows.c[name] for name in kinds), made_at, made_at)
    return CompiledStatement(
        insert(thread)
        .from_select(["thread_id", "user_id", *kinds, "created_at", "updated_at"], values, include_defaults=False)
        .on_conflict_do_nothing(index_elements=[thread.c.thread_id])
        .returning(thread.c.thread_id, thread.c.created_at, *TRANSACTION_MARKS)
    )
