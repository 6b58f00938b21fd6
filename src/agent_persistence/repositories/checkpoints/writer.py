"""Saves checkpoints and writes of tasks: each value once, however many checkpoints have it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, any_, delete, literal

from agent_persistence.errors import CheckpointingDisabledError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.models import Models
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.checkpoints.changes import Changes
from agent_persistence.repositories.checkpoints.known_graphs import NOTHING, KnownNamespace
from agent_persistence.repositories.checkpoints.loaded_rows import items_of_channel
from agent_persistence.repositories.checkpoints.prepared_saves import (
    INPUT,
    PreparedSave,
    checkpoint_to_save,
    columns_of_saves,
    repeats_input,
    writes_to_save,
)
from agent_persistence.repositories.checkpoints.reader import CheckpointReader
from agent_persistence.repositories.checkpoints.records import NewCheckpoint, NewWrites
from agent_persistence.repositories.checkpoints.refs import NO_REFS, Refs, WholeRef, last_number, read_refs
from agent_persistence.repositories.checkpoints.statements import (
    NO_ROW,
    known_values,
    lock_thread_and_parent,
    save_graphs,
)
from agent_persistence.repositories.checkpoints.value_rows import StoredItem, stored_values
from agent_persistence.repositories.threads.repository import ThreadRepository
from agent_persistence.sessions.commit_evidence import RowEvidence
from agent_persistence.sessions.scope import Scope

_NOT_CREATED: Final = (
    ": it was deleted, or was never created. Create it with threads.create(thread_id=...), as for a copy from another"
    " checkpointer; only a checkpoint without a parent creates its thread"
)

Also = Callable[[Changes], Awaitable[None]]
"""Writes more in the transaction of a checkpoint, given its changes."""


class CheckpointWriter:
    """Saves checkpoints within one unit of work."""

    def __init__(self, scope: Scope[Any, Any]) -> None:
        self._scope = scope
        self._tables = scope.models.side_tables.graph
        self._of_any_user = scope.owner is ANY_USER

    async def checkpoint(self, new: NewCheckpoint, also: Also | None = None) -> tuple[Any, KnownNamespace]:
        """Save a checkpoint.

        Args:
            also: writes more, before the checkpoint.

        Returns:
            The row that the statement returned, and what is known of the namespace once the transaction is committed.
        """
        self._refuse_if_disabled()
        parent = await self._lock(new.thread_id, new.checkpoint_ns, new.parent_id, new.may_start_thread)
        changes = Changes(new, parent)
        known = await self._known_values(new, changes)
        changes.compare(known)
        if also is not None:
            await also(changes)
        save = await checkpoint_to_save(self._scope, new, changes, last_number(parent, known))
        row = await self._save(save)
        # Of a namespace that had no rows, all channels are known.
        whole = None if row.last_no == NO_ROW else frozenset(changes.lists)
        place = NOTHING if whole is None else KnownNamespace(None, None, parent, known, whole, row.last_no, None)
        return row, save.applied_to(place, row)

    async def _known_values(self, new: NewCheckpoint, changes: Changes) -> dict[str, list[StoredItem]]:
        found: defaultdict[str, list[StoredItem]] = defaultdict(list)
        if changes.first_rows or changes.large:
            rows = await self._scope.fetch(
                known_values(self._scope.models),
                thread_id=new.thread_id,
                checkpoint_ns=new.checkpoint_ns,
                parent_id=new.parent_id,
                wanted_channel=list(changes.first_rows),
                wanted_first_no=list(changes.first_rows.values()),
                changed=changes.large,
            )
            for row in sorted(rows, key=lambda row: int(row.value_no)):
                found[row.channel] += items_of_channel(stored_values(row.value_no, row.cells)[0], row.channel)
        return dict(found)

    async def writes(self, new: NewWrites) -> None:
        """Save the writes of a task."""
        self._refuse_if_disabled()
        base = await self._input(new) if repeats_input(new) else None
        save = await writes_to_save(self._scope, new, base)
        if not save.rows:
            return
        # Written before the checkpoint, writes can be the first rows of a thread: there is none to lock then.
        row = await self._try_to_save(save)
        if row is None:
            if not new.may_start_thread():
                raise ThreadNotFoundError(new.thread_id, _NOT_CREATED)
            await self._start(new.thread_id)
            row = await self._save(save)
        if any(idx < 0 for idx, *_ in new.writes):
            await self._delete_replaced(new, before=row.numbers[0])

    async def _delete_replaced(self, new: NewWrites, *, before: int) -> None:
        """Delete the task's rows of special writes that these replace, of which the last counts.

        A node that is interrupted often writes all its answers each time: kept, they would all be read each time.
        """
        special = {idx: channel for idx, channel, _ in new.writes if idx < 0}
        rows = await self._scope.fetch(
            known_values(self._scope.models),
            thread_id=new.thread_id,
            checkpoint_ns=new.checkpoint_ns,
            parent_id=new.checkpoint_id,
            wanted_channel=[],
            wanted_first_no=[],
            changed=list(special.values()),
        )
        replaced = [row.value_no for row in rows if row.value_no < before and _is_of(row, new.task_id, special.keys())]
        if replaced:
            values = self._tables.values
            mine = values.c.value_no == any_(literal(replaced, ARRAY(BigInteger())))
            await self._scope.execute(delete(values).where(values.c.thread_id == new.thread_id, mine))

    async def _lock(self, thread_id: Any, namespace: str, parent_id: str | None, may_start: Callable[[], bool]) -> Refs:
        statement = lock_thread_and_parent(self._scope.models, of_any_user=self._of_any_user)
        values = {
            "checkpoint_ns": namespace,
            "parent_id": parent_id,
            "thread_ids": [thread_id],
            "owners": [None if self._of_any_user else self._scope.owner],
        }
        rows = await self._scope.fetch(statement, **values)
        if not rows:
            if not may_start():
                raise ThreadNotFoundError(thread_id, _NOT_CREATED)
            await self._start(thread_id)
            rows = await self._scope.fetch(statement, **values)
        return NO_REFS if rows[0].refs is None else read_refs(rows[0].refs)

    async def _start(self, thread_id: Any) -> None:
        """Create the thread, unless another process just did."""
        threads = ThreadRepository(self._scope)
        try:
            await threads.create(thread_id=thread_id)
        except ThreadExistsError:  # by another process, or a thread of another owner
            if await threads.get(thread_id) is None:
                raise

    async def _input(self, new: NewWrites) -> tuple[int, bytes] | None:
        """Read the row of the run's input, which the run's first task repeats in other channels."""
        # The other order is not looked for: it did not occur in any measured run (docs/adr/0016).
        refs = await self._lock(new.thread_id, new.checkpoint_ns, new.checkpoint_id, new.may_start_thread)
        ref, namespace = refs.channels.get(INPUT), (new.thread_id, new.checkpoint_ns)
        if not isinstance(ref, WholeRef):
            return None
        return (await CheckpointReader(self._scope).load_value(namespace, INPUT, ref)).base()

    async def _save(self, save: PreparedSave) -> Any:
        row = await self._try_to_save(save)
        if row is None:  # deleted since it was locked, or started, by an earlier statement of an autocommitting session
            raise ThreadNotFoundError(save.thread_id, _NOT_CREATED)
        return row

    async def _try_to_save(self, save: PreparedSave) -> Any | None:
        scope = self._scope
        statement = save_graphs(
            scope.models, touch_seconds=scope.options.touch_interval, of_any_user=self._of_any_user, one=True
        )
        rows = await scope.write(statement, partial(saved_evidence, scope.models), **columns_of_saves([save]))
        return rows[0] if rows else None

    def _refuse_if_disabled(self) -> None:
        if not self._scope.options.save_states:
            raise CheckpointingDisabledError


def saved_evidence(models: Models[Any, Any], row: Any) -> RowEvidence:
    """Return evidence of a saved item, given the row that the statement returned."""
    tables = models.side_tables.graph
    if row.checkpoint_id is None:
        key = {"thread_id": row.thread_id, "value_no": row.numbers[-1]}
        return RowEvidence(tables.values, key, ("created_at", row.created_at))
    key = {name: getattr(row, name) for name in ("thread_id", "checkpoint_ns", "checkpoint_id")}
    return RowEvidence(tables.checkpoints, key, ("created_at", row.created_at))


def _is_of(row: Any, task_id: str, indexes: Collection[int]) -> bool:
    """Return whether a row has nothing but a task's writes with these indexes."""
    values, task = stored_values(row.value_no, row.cells)
    return task is not None and task.task_id == task_id and all(value.idx in indexes for value in values)
