"""Saves of graphs: with those of other callers in one statement, or alone where something must be looked up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_persistence.concurrency.batching import ALONE, Alone, Batcher
from agent_persistence.database.connections import PinnedConnection
from agent_persistence.errors import CheckpointingDisabledError, InvalidInputError
from agent_persistence.models import Models
from agent_persistence.operations.group_commit import GroupCommit, Written, doubtful
from agent_persistence.operations.transactions import Transactions
from agent_persistence.operations.unit_of_work import Repositories, UnitOfWork
from agent_persistence.records import ANY_USER, AnyUser, NewMessage
from agent_persistence.repositories.checkpoints.changes import Changes
from agent_persistence.repositories.checkpoints.known_graphs import KnownGraphs, KnownNamespace
from agent_persistence.repositories.checkpoints.prepared_saves import (
    PreparedSave,
    columns_of_saves,
    known_checkpoint,
    known_writes,
)
from agent_persistence.repositories.checkpoints.records import NewCheckpoint, NewWrites
from agent_persistence.repositories.checkpoints.statements import save_graphs
from agent_persistence.repositories.messages.prepared import PreparedMessage, prepare_append
from agent_persistence.repositories.messages.statements import columns_of_messages


@dataclass(frozen=True, slots=True)
class Mirrored:
    """Messages that are written in the transaction of a checkpoint.

    Attributes:
        messages: returns them, given what the checkpoint changes; ``None`` if that takes a look at the database.
        write: writes them in a unit of work, whatever is stored already.
    """

    messages: Callable[[Changes], Sequence[NewMessage[Any]] | None]
    write: Callable[[UnitOfWork[Any, Any], Changes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Item:
    """One save on its way.

    Attributes:
        messages: what is added with it.
        alone: saves it in a transaction of its own.
    """

    save: PreparedSave
    messages: Sequence[PreparedMessage[Any]]
    alone: Callable[[], Awaitable[None]]


class GraphCalls:
    """Saves checkpoints and writes of tasks.

    A save that depends only on what this process saved itself is one statement, which other callers share. The
    statement checks that nobody else has written in between; if somebody has, the save goes the long way.
    """

    def __init__(self, transactions: Transactions[Any, Any], group: GroupCommit) -> None:
        self._transactions = transactions
        self._sessions = transactions.sessions
        self._known = KnownGraphs()
        writer = _GraphGroupWriter(self._sessions.models, self._sessions.options.touch_interval)
        self._saves: Batcher[_Item, Any] = transactions.batcher(
            partial(group.run, write=writer.write, is_repeatable=_is_repeatable), _run_alone
        )

    async def put(self, new: NewCheckpoint, *, user_id: Any | AnyUser, mirrored: Mirrored | None = None) -> None:
        """Save a checkpoint; see ``CheckpointRepository.put``."""
        alone = partial(self._put_alone, new, user_id, mirrored)
        if not await self._may_share(user_id):
            await alone()
            return
        scope = self._sessions.reading(user_id)
        found = await known_checkpoint(scope, new, self._known.get(new.thread_id))
        if found is None:
            await alone()
            return
        save, changes = found
        messages: Sequence[PreparedMessage[Any]] | None = ()
        if mirrored is not None:
            try:
                given = mirrored.messages(changes)
                messages = None if given is None else prepare_append(scope, new.thread_id, given, "messages").messages
            except InvalidInputError:
                messages = None
        if messages is None:
            await alone()
        else:
            await self._submit(_Item(save, messages, alone))

    async def put_writes(self, new: NewWrites, *, user_id: Any | AnyUser) -> None:
        """Save the writes of a task; see ``CheckpointRepository.put_writes``."""
        alone = partial(self._put_writes_alone, new, user_id)
        save = None
        if await self._may_share(user_id):
            save = await known_writes(self._sessions.reading(user_id), new, self._known.get(new.thread_id))
        if save is None:
            await alone()
        elif save.rows:
            await self._submit(_Item(save, (), alone))

    async def _may_share(self, user_id: Any | AnyUser) -> bool:
        await self._sessions.ready()
        if not self._sessions.options.save_states:
            raise CheckpointingDisabledError
        return self._sessions.groups and user_id is not ANY_USER

    async def _submit(self, item: _Item) -> None:
        save = item.save
        try:
            row = await self._saves.submit(item, key=save.thread_id, size=save.size)
        except BaseException:
            self._known.forget(save.thread_id)  # it may be saved all the same
            raise
        if row is not None:
            self._note(save, row)

    def _note(self, save: PreparedSave, row: Any) -> None:
        thread, expected = self._known.get(save.thread_id), save.expected
        if thread is None or expected is None:
            self._known.forget(save.thread_id)
            return
        before, place = expected.namespace, thread.namespaces.get(save.checkpoint_ns)
        # Else nothing is known of the namespace, or another save to it came in between.
        is_next = before is not None and (place is before or (place is None and before.head is None))
        known = save.applied_to(before, row) if before is not None and is_next else None
        self._remember(save.thread_id, save.checkpoint_ns, known, row)

    def _remember(self, thread_id: Any, namespace: str, place: KnownNamespace | None, row: Any) -> None:
        self._known.put(thread_id, namespace, place, before=row.touched_before, after=row.touched_at)

    async def _put_alone(self, new: NewCheckpoint, user_id: Any | AnyUser, mirrored: Mirrored | None) -> None:
        async def work(uow: UnitOfWork[Any, Any]) -> tuple[Any, KnownNamespace]:
            also = None if mirrored is None else partial(mirrored.write, uow)
            return await uow.checkpoints.put(new, also)

        self._known.forget(new.thread_id)
        row, place = await self._transactions.write(work, user_id=user_id)
        if user_id is not ANY_USER:
            self._remember(new.thread_id, new.checkpoint_ns, place, row)

    async def _put_writes_alone(self, new: NewWrites, user_id: Any | AnyUser) -> None:
        async def work(repositories: Repositories[Any, Any]) -> None:
            await repositories.checkpoints.put_writes(new)

        self._known.forget(new.thread_id)
        await self._transactions.write(work, user_id=user_id)


async def _run_alone(item: _Item, reason: Alone) -> None:
    with doubtful(reason):
        await item.alone()


def _is_repeatable(_item: _Item) -> bool:
    """Each item does no harm if it is saved twice: it has ids, and values that nothing refers to are pruned."""
    return True


class _GraphGroupWriter:
    """Saves items of several threads, and their messages, by one statement."""

    def __init__(self, models: Models[Any, Any], touch_seconds: float) -> None:
        self._statements = {
            mirrors: save_graphs(models, touch_seconds=touch_seconds, waits=False, mirrors=mirrors)
            for mirrors in (False, True)
        }

    async def write(self, connection: PinnedConnection, items: list[_Item]) -> Written[Any]:
        """Save the items; those that cannot share the statement are to run alone."""
        results: list[Any] = [ALONE] * len(items)
        index_of: dict[Any, int] = {}
        for index, item in enumerate(items):
            index_of.setdefault(item.save.thread_id, index)  # one of each thread: a second one depends on the first
        chosen = [items[index] for index in index_of.values()]
        messages = [(one.save.thread_id, one.save.owner, message) for one in chosen for message in one.messages]
        columns = columns_of_saves([one.save for one in chosen])
        if messages:
            columns["message_thread_id"] = [thread_id for thread_id, *_ in messages]
            given = columns_of_messages(messages, with_ids=True)
            columns |= {f"message_{name}": values for name, values in given.items()}
        for row in await connection.fetch(self._statements[bool(messages)], **columns):
            index = index_of[row.thread_id]
            # Else a message was added by somebody else at the same moment: alone, it is compared with this one.
            if not messages or row.mirrored == len(items[index].messages):
                results[index] = row
        return Written(results, None)
