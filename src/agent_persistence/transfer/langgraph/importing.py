"""Imports threads from LangGraph's tables, and compares each checkpoint with its source."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Final, Protocol

from sqlalchemy import update

from agent_persistence.database.driver_errors import translated
from agent_persistence.encoding.exact_json import encode_json
from agent_persistence.errors import PersistenceError, UnavailableError
from agent_persistence.models.base import table_of
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.repositories.checkpoints.records import (
    ChannelValue,
    CheckpointQuery,
    CheckpointRecord,
    NewCheckpoint,
    NewWrites,
    new_value,
)
from agent_persistence.transfer.langgraph.tables import SourceCheckpoint, SourceWrite, Tables
from agent_persistence.transfer.source import UNREADABLE, unreadable

_BATCH: Final = 20  # checkpoints in memory and in a transaction: their values can be megabytes each


class MessageWriter(Protocol):
    """Writes the messages of one thread's checkpoints, which are given in their order."""

    async def write(
        self, uow: UnitOfWork[Any, Any], thread_id: Any, checkpoint_id: str, changed: Mapping[str, ChannelValue | None]
    ) -> None:
        """Write the messages that a checkpoint adds, given the values that it changes."""


@dataclass(slots=True)
class ImportedThread:
    """The result of importing one thread.

    Attributes:
        checkpoints: the number of its checkpoints in the source.
        added: the number of those that did not exist here.
        writes: the number of its tasks' writes in the source.
        differing: the number of checkpoints that exist here with different contents; they are not changed.
        refusal: the reason why the thread, or the rest of it, was not imported; ``None`` if all of it was.
    """

    thread_id: str
    checkpoints: int = 0
    added: int = 0
    writes: int = 0
    differing: int = 0
    refusal: str | None = None


async def import_threads(
    tables: Tables,
    persistence: Persistence[Any, Any],
    *,
    owner_of: Callable[[Mapping[str, Any]], Any],
    owner_key: str | None = None,
    messages: Callable[[], MessageWriter] | None = None,
) -> AsyncIterator[ImportedThread]:
    """Copy threads with their checkpoints and writes, and compare each checkpoint with its source.

    Twenty checkpoints at a time are held in memory. A second run adds missing checkpoints and compares all. Threads
    have the times of their first and last checkpoints.

    Args:
        tables: the source.
        persistence: the target.
        owner_of: called with the metadata of a thread's latest checkpoint; returns the owner of the thread, or raises
            ``InvalidInputError``, which becomes the thread's ``refusal``.
        owner_key: a key of the metadata; the latest checkpoint that has it is asked before later ones without it.
        messages: called for each thread; returns what writes the messages of its new checkpoints. ``None`` for none.

    Yields:
        The result of each thread.

    Raises:
        UnavailableError: a database cannot be reached.
    """
    async for thread_id in tables.threads():
        found = ImportedThread(thread_id)
        try:
            own_id = persistence.models.id_types.id.parse_exact(thread_id, "thread_id")
            owner = owner_of(await tables.latest_metadata(thread_id, key=owner_key))
            await _Importing(persistence, own_id, owner, found, messages and messages()).all_of(tables)
        except UnavailableError:  # no other thread could be imported either
            raise
        except PersistenceError as error:
            found.refusal = str(error)
        except UNREADABLE as error:
            found.refusal = unreadable(error)
        yield found


class _Importing:
    def __init__(
        self,
        persistence: Persistence[Any, Any],
        thread_id: Any,
        owner: Any,
        found: ImportedThread,
        messages: MessageWriter | None,
    ) -> None:
        self._messages = messages
        self._persistence = persistence
        self._thread_id = thread_id
        self._owner = owner
        self._found = found

    async def all_of(self, tables: Tables) -> None:
        async for batch in tables.checkpoints(self._found.thread_id, at_once=_BATCH):
            here = await self._here(batch)
            missing = [one for one in batch if _key(one) not in here]
            if missing:
                # One transaction a batch, so that an import that failed can be run again from there.
                await self._persistence.run(partial(self._add, missing), user_id=self._owner)
                here |= await self._here(missing)
            for one in batch:
                await self._compare(one, here[_key(one)])
            self._found.checkpoints += len(batch)
            self._found.added += len(missing)
        others = await tables.other_writes(self._found.thread_id)
        self._found.writes += len(others)
        await self._add_writes(others)

    async def _here(self, batch: Sequence[SourceCheckpoint]) -> dict[tuple[str, str], CheckpointRecord]:
        found: dict[tuple[str, str], CheckpointRecord] = {}
        for one in batch:
            query = CheckpointQuery(self._thread_id, one.checkpoint_ns, one.checkpoint_id)
            for record in await self._persistence.checkpoints.page(query, user_id=self._owner, limit=1):
                found[_key(one)] = record
        return found

    async def _add(self, batch: Sequence[SourceCheckpoint], uow: UnitOfWork[Any, Any]) -> None:
        before = await uow.threads.get(self._thread_id)
        for one in batch:
            await uow.checkpoints.put(self._new(one))
            await _put_writes(uow, self._thread_id, one.writes)
            if self._messages is not None and not one.checkpoint_ns:  # those of the root graph are the conversation
                await self._messages.write(uow, self._thread_id, one.checkpoint_id, one.changed)
        times = [one.saved_at for one in batch if one.saved_at is not None]
        # Saving has set them to now: all threads would have been active last at the import, in the order of their ids.
        # A thread that was active here since keeps that: who saves to it compares this time (decision 0018).
        if times and (before is None or before.updated_at < max(times)):
            thread = table_of(self._persistence.models.Thread)
            values = {"updated_at": max(times)} | ({"created_at": min(times)} if before is None else {})
            with translated():
                is_it = thread.c.thread_id == self._thread_id
                await uow.session.execute(update(thread).where(is_it).values(values))

    def _new(self, one: SourceCheckpoint) -> NewCheckpoint:
        run_id = one.metadata.get("run_id")
        return NewCheckpoint(
            thread_id=self._thread_id,
            checkpoint_ns=one.checkpoint_ns,
            checkpoint_id=one.checkpoint_id,
            parent_id=one.parent_id,
            run_id=run_id if isinstance(run_id, str) else None,
            metadata=one.metadata,
            exact_metadata=None,
            body=one.body,
            changed={name: None if value is None else new_value(value) for name, value in one.changed.items()},
            versions=one.versions,
            dump=lambda _: None,
        )

    async def _compare(self, one: SourceCheckpoint, record: CheckpointRecord) -> None:
        """Compare a checkpoint with its source, and add writes that are new in the source."""
        written = {(write.task_id, write.idx): (write.channel, write.value) for write in record.writes}
        new = [write for write in one.writes if (write.task_id, write.idx) not in written]
        # An application that still runs on the source adds writes to checkpoints that were imported before.
        await self._add_writes(new)
        same = [
            record.parent_id == one.parent_id,
            record.body == one.body,
            encode_json(dict(record.metadata), "metadata") == encode_json(dict(one.metadata), "metadata")
            or record.metadata == one.metadata,
            all(record.channels.get(name) == found for name, found in one.changed.items()),
            set(record.channels) <= one.versions.keys(),
            all(
                written.get((write.task_id, write.idx), (write.channel, write.value)) == (write.channel, write.value)
                for write in one.writes
            ),
        ]
        self._found.writes += len(one.writes)
        self._found.differing += not all(same)

    async def _add_writes(self, writes: Sequence[SourceWrite]) -> None:
        if writes:
            await self._persistence.run(lambda uow: _put_writes(uow, self._thread_id, writes), user_id=self._owner)


async def _put_writes(uow: UnitOfWork[Any, Any], thread_id: Any, writes: Iterable[SourceWrite]) -> None:
    for (namespace, checkpoint_id, task_id, path), mine in groupby(writes, key=_task_of):
        await uow.checkpoints.put_writes(
            NewWrites(
                thread_id=thread_id,
                checkpoint_ns=namespace,
                checkpoint_id=checkpoint_id,
                task_id=task_id,
                task_path=path,
                writes=[(write.idx, write.channel, write.value) for write in mine],
            )
        )


def _task_of(write: SourceWrite) -> tuple[str, str, str, str]:
    return write.checkpoint_ns, write.checkpoint_id, write.task_id, write.task_path


def _key(one: SourceCheckpoint) -> tuple[str, str]:
    return one.checkpoint_ns, one.checkpoint_id
