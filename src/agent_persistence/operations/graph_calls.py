"""Saves of graphs: with those of other callers in one statement, or alone where something must be looked up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_persistence.concurrency.batching import ALONE, LATER, Alone, Batcher
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.errors import CheckpointingDisabledError
from agent_persistence.operations.group_commit import GroupCommit, Written, doubtful
from agent_persistence.operations.transactions import Transactions
from agent_persistence.operations.unit_of_work import Repositories, UnitOfWork
from agent_persistence.records import ANY_USER, AnyUser, NewMessage
from agent_persistence.repositories.checkpoints.changes import Changes
from agent_persistence.repositories.checkpoints.known_graphs import (
    KnownGraphs,
    KnownNamespace,
    KnownThread,
    Likely,
    ReadNamespace,
)
from agent_persistence.repositories.checkpoints.prepared_saves import (
    PreparedSave,
    columns_of_saves,
    known_checkpoint,
    known_writes,
)
from agent_persistence.repositories.checkpoints.records import CheckpointQuery, NewCheckpoint, NewWrites
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
    """A save on its way, or other work on a thread.

    Attributes:
        new: what to save; ``None`` for other work.
        alone: saves it in a transaction of its own, or does the other work.
    """

    new: NewCheckpoint | NewWrites | None
    user_id: Any | AnyUser
    mirrored: Mirrored | None
    alone: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Joint:
    """The first saves of a thread that one statement can make.

    Attributes:
        count: how many they are.
        messages: what is added with them.
    """

    save: PreparedSave
    count: int
    messages: Sequence[PreparedMessage[Any]]


class GraphCalls:
    """Saves checkpoints and writes of tasks, those of each thread in the order of the calls.

    A save that depends only on what this process saved itself is one statement, which other callers share, and which
    saves what waits for the same thread too: the writes of a step, and the checkpoint after it. The statement checks
    that nobody else has written in between; if somebody has, the save goes the long way.
    """

    def __init__(self, transactions: Transactions[Any, Any], group: GroupCommit) -> None:
        self._transactions = transactions
        self._sessions = transactions.sessions
        self._known = KnownGraphs()
        self._statements = {
            (mirrors, one): save_graphs(
                self._sessions.models,
                touch_seconds=self._sessions.options.touch_interval,
                waits=False,
                mirrors=mirrors,
                one=one,
            )
            for mirrors in (False, True)
            for one in (False, True)
        }
        self._saves: Batcher[_Item, None] = transactions.batcher(
            partial(group.run, write=self._write, is_repeatable=_is_repeatable),
            _run_alone,
            kind="graph",
            # LangGraph saves a checkpoint in the second turn after it was told that the one before is saved.
            turns=2,
        )

    async def put(self, new: NewCheckpoint, *, user_id: Any | AnyUser, mirrored: Mirrored | None = None) -> None:
        """Save a checkpoint; see ``CheckpointRepository.put``."""
        await self._save(_Item(new, user_id, mirrored, partial(self._put_alone, new, user_id, mirrored)), new)

    async def put_writes(self, new: NewWrites, *, user_id: Any | AnyUser) -> None:
        """Save the writes of a task; see ``CheckpointRepository.put_writes``."""
        await self._save(_Item(new, user_id, None, partial(self._put_writes_alone, new, user_id)), new)

    def known(self, query: CheckpointQuery) -> Likely | None:
        """Return what is known of a namespace whose latest checkpoint is asked for, or the one that was the latest."""
        thread = self._known.get(query.thread_id)
        place = None if thread is None else thread.namespaces.get(query.checkpoint_ns or "")
        if thread is None or place is None or query.checkpoint_id not in {None, place.head}:
            return None
        return Likely(thread.touched_at, place)

    def learn(self, query: CheckpointQuery, found: ReadNamespace) -> None:
        """Remember a namespace whose latest checkpoint was read."""
        self._known.learn(query.thread_id, query.checkpoint_ns or "", found)

    async def after_saves(self, thread_id: Any, work: Callable[[], Awaitable[None]]) -> None:
        """Run work on a thread after the saves that were called before it, and before later ones."""
        await self._saves.submit(_Item(None, None, None, work), key=thread_id, joins=False)

    async def _save(self, item: _Item, new: NewCheckpoint | NewWrites) -> None:
        await self._sessions.ready()
        if not self._sessions.options.save_states:
            raise CheckpointingDisabledError
        joins = self._sessions.groups and item.user_id is not ANY_USER
        # Not serialised by locks of the server: each waiting save would hold a connection. In order, a checkpoint finds
        # the values that tasks wrote before it, and refers to them instead of storing them again.
        await self._saves.submit(item, key=new.thread_id, size=new.size, joins=joins)

    async def _write(self, connection: PinnedConnection, items: list[_Item]) -> Written[None]:
        """Save the first items of each thread; the others of a thread are to run later, in their order."""
        results: list[Alone | None] = [LATER] * len(items)
        indexes_of: defaultdict[Any, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            indexes_of[_thread_of(item)].append(index)
        joints: dict[Any, _Joint] = {}
        for thread_id, indexes in indexes_of.items():
            results[indexes[0]] = ALONE  # unless it is saved below
            if joint := await self._joint(thread_id, [items[index] for index in indexes]):
                joints[thread_id] = joint
        for row in await self._fetch(connection, joints):
            joint = joints.pop(row.thread_id)
            # Else a message was added by somebody else at the same moment: alone, it is compared with this one.
            if not joint.messages or row.mirrored == len(joint.messages):
                self._note(joint.save, row)
                for index in indexes_of[row.thread_id][: joint.count]:
                    results[index] = None
        return Written(results, None)

    async def _joint(self, thread_id: Any, items: Sequence[_Item]) -> _Joint | None:
        """Prepare the first of a thread's items that one statement can save: writes, up to a checkpoint."""
        thread, first, joint = self._known.get(thread_id), items[0], None
        for count, item in enumerate(items, 1):
            if item.user_id != first.user_id or _namespace_of(item) != _namespace_of(first):
                break
            try:
                found = await self._prepared(item, thread, None if joint is None else joint.save)
            except Exception:  # noqa: BLE001 - alone, it meets its own caller
                found = None
            if found is None:
                break
            joint = _Joint(found[0], count, found[1])
            if joint.save.checkpoint is not None:
                break
        return joint

    async def _prepared(
        self, item: _Item, thread: KnownThread | None, before: PreparedSave | None
    ) -> tuple[PreparedSave, Sequence[PreparedMessage[Any]]] | None:
        new, scope = item.new, self._sessions.reading(item.user_id)
        assert new is not None  # noqa: S101 - other work joins no batch
        await new.settle()
        if isinstance(new, NewWrites):
            save = await known_writes(scope, new, thread, before)
            return None if save is None else (save, ())
        found = await known_checkpoint(scope, new, thread, before)
        if found is None or item.mirrored is None:
            return None if found is None else (found[0], ())
        save, changes = found
        given = item.mirrored.messages(changes)
        return None if given is None else (save, prepare_append(scope, new.thread_id, given, "messages").messages)

    async def _fetch(self, connection: PinnedConnection, joints: Mapping[Any, _Joint]) -> Sequence[Any]:
        if not joints:
            return ()
        chosen = joints.values()
        messages = [(one.save.thread_id, one.save.owner, message) for one in chosen for message in one.messages]
        columns = columns_of_saves([one.save for one in chosen])
        if messages:
            columns["message_thread_id"] = [thread_id for thread_id, *_ in messages]
            given = columns_of_messages(messages, with_ids=True)
            columns |= {f"message_{name}": values for name, values in given.items()}
        try:
            return await connection.fetch(self._statements[bool(messages), len(joints) == 1], **columns)
        except BaseException:
            for thread_id in joints:
                self._known.forget(thread_id)  # they may be saved all the same
            raise

    def _note(self, save: PreparedSave, row: Any) -> None:
        if save.expected is None:
            self._known.forget(save.thread_id)
        else:
            place = save.expected.namespace
            self._remember(save, None if place is None else save.applied_to(place, row), row)

    def _remember(self, saved: PreparedSave | NewCheckpoint, place: KnownNamespace | None, row: Any) -> None:
        before, after = row.touched_before, row.touched_at
        self._known.put(saved.thread_id, saved.checkpoint_ns, place, before=before, after=after)

    async def _put_alone(self, new: NewCheckpoint, user_id: Any | AnyUser, mirrored: Mirrored | None) -> None:
        async def work(uow: UnitOfWork[Any, Any]) -> tuple[Any, KnownNamespace]:
            also = None if mirrored is None else partial(mirrored.write, uow)
            return await uow.checkpoints.put(new, also)

        self._known.forget(new.thread_id)
        await new.settle()
        row, place = await self._transactions.write(work, user_id=user_id)
        if user_id is not ANY_USER:
            self._remember(new, place, row)

    async def _put_writes_alone(self, new: NewWrites, user_id: Any | AnyUser) -> None:
        async def work(repositories: Repositories[Any, Any]) -> None:
            await repositories.checkpoints.put_writes(new)

        self._known.forget(new.thread_id)
        await new.settle()
        await self._transactions.write(work, user_id=user_id)


def _thread_of(item: _Item) -> Any:
    return None if item.new is None else item.new.thread_id


def _namespace_of(item: _Item) -> str | None:
    return None if item.new is None else item.new.checkpoint_ns


async def _run_alone(item: _Item, reason: Alone) -> None:
    with doubtful(reason):
        await item.alone()


def _is_repeatable(_item: _Item) -> bool:
    """Each item does no harm if it is saved twice: it has ids, and values that nothing refers to are pruned."""
    return True
