"""The three calls that are made most: which way each goes, together with those of other callers or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Generic

from agent_persistence.concurrency.batching import ALONE, Alone, Batcher
from agent_persistence.errors import StateNotFoundError
from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.graph_calls import GraphCalls
from agent_persistence.operations.group_commit import GroupCommit, doubtful
from agent_persistence.operations.group_writes import (
    MessageGroupWriter,
    StateGroupWriter,
    has_one_kind_of_id,
    is_repeatable,
)
from agent_persistence.operations.item_calls import ItemCalls
from agent_persistence.operations.row_calls import RowCalls
from agent_persistence.operations.transactions import Transactions
from agent_persistence.operations.turn_calls import TurnCalls
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import ANY_USER, AnyUser, MessageRecord, StateRecord
from agent_persistence.repositories.messages.append import MessageAppender, is_copied
from agent_persistence.repositories.messages.prepared import PreparedAppend, prepare_append
from agent_persistence.repositories.states.prepared import PreparedState, prepare_state
from agent_persistence.repositories.states.repository import StateRepository, save_state
from agent_persistence.sessions.scope import Scope
from agent_persistence.telemetry.operation import worked_for
from agent_persistence.validation import check_version


class BatchedCalls(Generic[IdT, UserIdT]):
    """``states.get``, ``states.put`` and ``messages.append``: concurrent calls share statements and transactions.

    Alone go calls of administration, of stores that do not group, and those that need a transaction of their session:
    ``expected_version``, a limit of states a thread, COPY, messages with and without ids in one call.

    Attributes:
        graphs: the saves of graphs.
        turns: the saves of states with messages.
        rows: changes of threads, results of tool calls, and deleted messages.
        items: puts of items.
    """

    def __init__(self, transactions: Transactions[IdT, UserIdT]) -> None:
        sessions = transactions.sessions
        self._transactions = transactions
        self._sessions = sessions
        self._telemetry = sessions.telemetry
        options = sessions.options
        group = GroupCommit(sessions.connections, transactions.retries, transactions.commit, sessions.telemetry)
        # With a limit of states per thread, each save also deletes, which the statement of a batch does not.
        self._groups_states = sessions.groups and not options.max_states
        states = StateGroupWriter(sessions.models, options, sessions.recent)
        messages = MessageGroupWriter(sessions.models, options.touch_interval)
        self.graphs = GraphCalls(transactions, group)
        self.turns = TurnCalls(transactions, group, states, messages, may_share=self._groups_states)
        self.rows = RowCalls(transactions, group)
        self.items = ItemCalls(transactions, group)
        self._saves: Batcher[PreparedState[IdT], StateRecord[IdT]] = transactions.batcher(
            # With a cache, the quarantine of its keys must lie between the statement and its COMMIT.
            partial(group.run, write=states.write, find=None if sessions.cache else states.find),
            self._save_alone,
            kind="save",
        )
        self._appends: Batcher[PreparedAppend[IdT], tuple[MessageRecord[IdT], ...]] = transactions.batcher(
            partial(group.run, write=messages.write, is_repeatable=is_repeatable), self._append_alone, kind="append"
        )

    async def latest_state(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        fresh: bool,
        min_version: int | None,
        must_exist: bool = False,
    ) -> StateRecord[IdT] | None:
        """Return a thread's latest state, or ``None``; see ``CachedStates.get``.

        Raises:
            StateNotFoundError: there is none, and it must exist.
        """
        name = "states.require" if must_exist else "states.get"
        with self._telemetry.call(name, thread_id, user_id) as call:
            if not self._sessions.groups or user_id is ANY_USER:
                read = partial(_latest_state, thread_id=thread_id, fresh=fresh, min_version=min_version)
                state = await worked_for(call, self._transactions.read(read, user_id=user_id))
            else:
                await self._sessions.ready()
                # No task around it, and no repository: a cache hit costs less than they do, and reads run in tasks.
                ids, cache = self._sessions.models.id_types, self._sessions.cache
                reader = self._transactions.state_reader
                key = ids.id.validate(thread_id, "thread_id"), ids.user.validate(user_id, "user_id")
                wanted = 0 if min_version is None else check_version(min_version, "min_version")
                if cache is None or fresh:
                    if cache is not None:
                        cache.counts.bypassed += 1
                    state = await reader.latest(*key, call)
                else:
                    state = await reader.through_cache(cache, *key, operation=call)
                    if (state.version if state else 0) < wanted:  # see CachedStates.get
                        state = await reader.latest(*key, call)
            if state is None and must_exist:
                raise StateNotFoundError(thread_id)
            return state

    async def put_state(
        self,
        thread_id: IdT,
        data: Any,
        *,
        user_id: UserIdT | AnyUser,
        meta: Mapping[str, Any] | None,
        expected_version: int | None,
    ) -> StateRecord[IdT]:
        """Save a state as the thread's latest; see ``StateRepository.put``."""
        with self._telemetry.call("states.put", thread_id, user_id) as call:
            # expected_version is compared below the lock and before the INSERT: two statements that only a unit of work
            # can join.
            if not self._groups_states or user_id is ANY_USER or expected_version is not None:
                put = partial(_put, thread_id=thread_id, data=data, meta=meta, expected_version=expected_version)
                return await worked_for(call, self._transactions.write_in_scope(put, user_id=user_id))
            await self._sessions.ready()
            # Checked and encoded before it joins a batch: a bad argument fails its caller here and costs the other
            # callers nothing.
            new = prepare_state(self._sessions.reading(user_id), thread_id, data, meta)
            return await self._saves.submit(new, key=new.thread_id, size=new.size, operation=call)

    async def append(
        self, thread_id: IdT, messages: Sequence[Any], *, user_id: UserIdT | AnyUser, field: str, name: str
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread; see ``MessageRepository.append_many``.

        Args:
            field: the name of the messages in errors.
            name: that of the call in metrics.
        """
        with self._telemetry.call(name, thread_id, user_id) as call:
            await self._sessions.ready()
            new = prepare_append(self._sessions.reading(user_id), thread_id, messages, field)
            if not new.messages or not self._sessions.groups:
                return await worked_for(call, self._append_alone(new))
            # Those that cannot share a statement take their turn, too: calls on a thread run in the order of their
            # start.
            joins = user_id is not ANY_USER and has_one_kind_of_id(new) and not is_copied(new)
            return await self._appends.submit(new, key=new.thread_id, size=new.size, joins=joins, operation=call)

    async def _save_alone(self, new: PreparedState[IdT], _reason: Alone) -> StateRecord[IdT]:
        return await self._transactions.write_in_scope(partial(save_state, new=new), user_id=new.owner)

    async def _append_alone(self, new: PreparedAppend[IdT], reason: Alone = ALONE) -> tuple[MessageRecord[IdT], ...]:
        with doubtful(reason):
            return await self._transactions.write_in_scope(partial(_append, new=new), user_id=new.owner)


async def _latest_state(
    repositories: Repositories[IdT, Any], *, thread_id: IdT, fresh: bool, min_version: int | None
) -> StateRecord[IdT] | None:
    return await repositories.states.get(thread_id, fresh=fresh, min_version=min_version)


async def _put(
    scope: Scope[IdT, Any],
    *,
    thread_id: IdT,
    data: Any,
    meta: Mapping[str, Any] | None,
    expected_version: int | None,
) -> StateRecord[IdT]:
    return await StateRepository(scope).put(thread_id, data, meta=meta, expected_version=expected_version)


async def _append(scope: Scope[IdT, Any], *, new: PreparedAppend[IdT]) -> tuple[MessageRecord[IdT], ...]:
    return tuple(await MessageAppender(scope).append(new)) if new.messages else ()
