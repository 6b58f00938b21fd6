"""Saves checkpoints and writes of tasks: each value once, however many checkpoints have it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, BigInteger, any_, delete, literal

from agent_persistence.concurrency.offload import offload
from agent_persistence.encoding.exact_json import EncodedJSON
from agent_persistence.errors import CheckpointingDisabledError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.checkpoints.compression import Blob, compress_blob, fingerprint, size_of
from agent_persistence.repositories.checkpoints.loaded_rows import known_items
from agent_persistence.repositories.checkpoints.reader import CheckpointReader
from agent_persistence.repositories.checkpoints.records import NewChannelValue, NewCheckpoint, NewItems, NewWrites
from agent_persistence.repositories.checkpoints.refs import (
    NO_REFS,
    InlineRef,
    Layout,
    ListRef,
    Ref,
    Refs,
    WholeRef,
    lay_out,
    read_refs,
    write_refs,
)
from agent_persistence.repositories.checkpoints.statements import (
    add_values,
    known_values,
    lock_and_touch_thread,
    save_checkpoint,
)
from agent_persistence.repositories.checkpoints.value_rows import (
    SMALL,
    NewValue,
    NewValueRow,
    Position,
    StoredItem,
    Task,
    new_value_rows,
    stored_values,
)
from agent_persistence.repositories.threads.repository import ThreadRepository
from agent_persistence.sessions.commit_evidence import RowEvidence
from agent_persistence.sessions.scope import Scope

_NOT_CREATED: Final = (
    ": it was deleted, or was never created. Create it with threads.create(thread_id=...), as for a copy from another"
    " checkpointer; only a checkpoint without a parent creates its thread"
)
_INPUT: Final = "__start__"  # LangGraph's channel of a run's input
_INPUT_TASK_PATH: Final = f"~__pregel_pull, {_INPUT}"  # of a run's first task, which writes the input to other channels


class CheckpointWriter:
    """Saves checkpoints within one unit of work."""

    def __init__(self, scope: Scope[Any, Any]) -> None:
        self._scope = scope
        self._tables = scope.models.side_tables.graph
        self._of_any_user = scope.owner is ANY_USER

    async def checkpoint(self, new: NewCheckpoint) -> dict[str, list[int]]:
        """Save a checkpoint.

        Returns:
            For each list that changed, the indexes of the items that the parent's list does not have.
        """
        self._refuse_if_disabled()
        parent = await self._lock(new.thread_id, new.checkpoint_ns, new.parent_id, starts=new.may_start_thread)
        channels: dict[str, Ref] = {}
        changed = {name: value for name, value in new.changed.items() if value is not None}
        for name, version in new.versions.items():
            if name in new.changed:
                continue
            # By name alone, a copy would get its parent's values: LangGraph saves it beside its original, and names no
            # channel as changed.
            if name in parent.channels and parent.versions.get(name) == version:
                channels[name] = parent.channels[name]
            # The parent may also lack the value: it was deleted, or not saved (durability "exit").
            elif (value := new.dump(name)) is not None:
                changed[name] = value
        changes = Changes(changed, parent.channels)
        rows: Sequence[Any] = ()
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
        changes.compare(sorted(rows, key=lambda row: int(row.value_no)))
        new_rows = await _rows(changes.values)
        channels |= changes.refs(await self._add(new, new_rows, None) if new_rows else [])
        await self._save(new, Refs(channels, {}, {name: one for name, one in new.versions.items() if name in channels}))
        return changes.new_indexes

    async def writes(self, new: NewWrites) -> None:
        """Save the writes of a task."""
        self._refuse_if_disabled()
        values = [
            NewValue(channel, idx, isinstance(written, list), written if isinstance(written, list) else [written])
            for idx, channel, written in new.writes
        ]
        # Only here: a delta costs two statements, and other writes seldom repeat a stored value (docs/adr/0016).
        repeats_input = new.task_path == _INPUT_TASK_PATH and not all(value.is_small for value in values)
        base = await self._input(new) if repeats_input else None
        rows = await _rows(values, Task(new.task_id, new.task_path), base)
        # Written before the checkpoint, writes can be the first rows of a thread: add_values finds none to lock then.
        added = await self._add(new, rows, new.checkpoint_id) if rows else []
        if rows and not added:
            if not new.may_start_thread:
                raise ThreadNotFoundError(new.thread_id, _NOT_CREATED)
            await self._start(new.thread_id)
            added = await self._add(new, rows, new.checkpoint_id)
        if added and any(idx < 0 for idx, *_ in new.writes):
            await self._delete_replaced(new, before=added[0][0])

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

    async def _lock(self, thread_id: Any, namespace: str, parent_id: str | None, *, starts: bool) -> Refs:
        statement = lock_and_touch_thread(
            self._scope.models, touch_seconds=self._scope.options.touch_interval, of_any_user=self._of_any_user
        )
        values = {"checkpoint_ns": namespace, "parent_id": parent_id, **self._thread(thread_id)}
        rows = await self._scope.fetch(statement, **values)
        if not rows:
            if not starts:
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

    async def _add(
        self, new: NewCheckpoint | NewWrites, rows: Sequence[NewValueRow], checkpoint_id: str | None
    ) -> list[tuple[int, NewValueRow]]:
        scope = self._scope
        statement = add_values(scope.models, touch_seconds=scope.options.touch_interval, of_any_user=self._of_any_user)
        added = await scope.write(
            statement,
            self._added,
            **self._thread(new.thread_id),
            checkpoint_ns=new.checkpoint_ns,
            checkpoint_id=checkpoint_id,
            new_channel=[row.channel for row in rows],
            new_cells=[row.cells for row in rows],
            new_content=[row.content for row in rows],
        )
        # RETURNING guarantees no order, but the numbers are drawn under the lock in the order of the rows.
        return list(zip(sorted(row.value_no for row in added), rows, strict=False))

    async def _input(self, new: NewWrites) -> tuple[int, bytes] | None:
        """Read the row of the run's input, which the run's first task repeats in other channels."""
        # The other order is not looked for: it did not occur in any measured run (docs/adr/0016).
        refs = await self._lock(new.thread_id, new.checkpoint_ns, new.checkpoint_id, starts=new.may_start_thread)
        ref, namespace = refs.channels.get(_INPUT), (new.thread_id, new.checkpoint_ns)
        if not isinstance(ref, WholeRef):
            return None
        return (await CheckpointReader(self._scope).load_value(namespace, _INPUT, ref)).base()

    async def _save(self, new: NewCheckpoint, refs: Refs) -> None:
        await self._scope.write(
            save_checkpoint(self._scope.models),
            self._saved,
            new_thread_id=new.thread_id,
            new_checkpoint_ns=new.checkpoint_ns,
            new_checkpoint_id=new.checkpoint_id,
            new_parent_id=new.parent_id,
            new_run_id=new.run_id,
            new_metadata=self._encoded(new.metadata),
            new_exact_metadata=None if new.exact_metadata is None else compress_blob(new.exact_metadata),
            new_body=compress_blob(new.body),
            new_refs=write_refs(refs),
        )

    def _refuse_if_disabled(self) -> None:
        if not self._scope.options.save_states:
            raise CheckpointingDisabledError

    def _encoded(self, metadata: Mapping[str, Any]) -> EncodedJSON:
        return self._scope.encoded(dict(metadata), "metadata")

    def _thread(self, thread_id: Any) -> dict[str, Any]:
        return {"thread_ids": [thread_id], "owners": [None if self._of_any_user else self._scope.owner]}

    def _added(self, row: Any) -> RowEvidence:
        key = {"thread_id": row.thread_id, "value_no": row.value_no}
        return RowEvidence(self._tables.values, key, ("created_at", row.created_at))

    def _saved(self, row: Any) -> RowEvidence:
        key = {name: getattr(row, name) for name in ("thread_id", "checkpoint_ns", "checkpoint_id")}
        return RowEvidence(self._tables.checkpoints, key, ("created_at", row.created_at))


def _is_of(row: Any, task_id: str, indexes: Collection[int]) -> bool:
    """Return whether a row has nothing but a task's writes with these indexes."""
    values, task = stored_values(row.value_no, row.cells)
    return task is not None and task.task_id == task_id and all(value.idx in indexes for value in values)


class Changes:
    """The new values of a checkpoint's channels, compared with stored ones.

    Attributes:
        first_rows: by channel, the first number of the rows to compare with.
        large: the channels with a large value that is no list; writes of tasks at the parent may hold them.
        values: the values that are not stored yet.
        new_indexes: for each list, the indexes of the items that the parent's list does not have.
    """

    def __init__(self, values: Mapping[str, NewChannelValue], parent: Mapping[str, Ref]) -> None:
        self._lists: dict[str, NewItems] = {}
        self._wholes: dict[str, Blob] = {}
        for name, value in values.items():
            if isinstance(value, tuple):
                self._wholes[name] = value
            else:
                self._lists[name] = value
        self._parent = parent
        self._layouts: dict[str, tuple[Layout, list[StoredItem]]] = {}
        self._found: dict[str, Position] = {}
        self.values: list[NewValue] = []
        self.new_indexes: dict[str, list[int]] = {}
        self.large = sorted(name for name, blob in self._wholes.items() if len(blob[1]) > SMALL)
        self.first_rows = {name: _first_row(parent.get(name)) for name, one in self._lists.items() if one.fingerprints}
        # Of a value that is no list, the parent's and later ones: it often returns to one that it had.
        self.first_rows |= {
            name: ref.position[0] for name in self.large if isinstance(ref := parent.get(name), WholeRef)
        }

    def compare(self, rows: Sequence[Any]) -> None:
        """Find the values that are stored in rows, which are in the order of their numbers."""
        for name, items in self._lists.items():
            fingerprints = items.fingerprints
            known = known_items(rows, name)
            layout = lay_out(fingerprints, known)
            self._layouts[name] = layout, known
            self.new_indexes[name] = _new_indexes(fingerprints, _fingerprints_of(self._parent.get(name), known))
            if layout.added:
                self.values.append(
                    NewValue(name, None, is_list=True, items=[items.blob(index) for index in layout.added])
                )
        for name in self.large:
            wanted = fingerprint(self._wholes[name])
            # The latest one, so that older rows can be pruned.
            found = next((item.position for item in known_items(rows, name)[::-1] if item.fingerprint == wanted), None)
            if found is None:
                self.values.append(NewValue(name, None, is_list=False, items=[self._wholes[name]]))
            else:
                self._found[name] = found

    def refs(self, added: Sequence[tuple[int, NewValueRow]]) -> dict[str, Ref]:
        """Return references to all values; ``added`` are the rows of ``values``, with their numbers."""
        positions: dict[str, list[Position]] = {}
        for number, row in added:
            for value in stored_values(number, row.cells)[0]:
                positions.setdefault(value.channel, []).extend(item.position for item in value.items)
        refs: dict[str, Ref] = {name: InlineRef(blob) for name, blob in self._wholes.items()}
        for name in self.large:
            refs[name] = WholeRef(self._found[name] if name in self._found else positions[name][0])
        for name, (layout, known) in self._layouts.items():
            all_positions = [item.position for item in known] + positions.get(name, [])
            refs[name] = ListRef(len(self._lists[name].fingerprints), layout.spans(all_positions))
        return refs


async def _rows(
    values: Sequence[NewValue], task: Task | None = None, base: tuple[int, bytes] | None = None
) -> list[NewValueRow]:
    return await offload(sum(size_of(value.items) for value in values), new_value_rows, values, task, base)


def _first_row(ref: Ref | None) -> int:
    """Return the first row of a list's items; 0, that is all rows of the channel, if the parent has no list."""
    return min((span.first[0] for span in ref.spans), default=0) if isinstance(ref, ListRef) else 0


def _new_indexes(fingerprints: Iterable[str], before: Counter[str]) -> list[int]:
    """Return the indexes of a list's items that the parent's list does not have, or not as often."""
    found: list[int] = []
    for index, one in enumerate(fingerprints):
        if before[one]:
            before[one] -= 1
        else:
            found.append(index)
    return found


def _fingerprints_of(ref: Ref | None, known: Sequence[StoredItem]) -> Counter[str]:
    """Count the fingerprints of the items of the parent's list."""
    positions = [item.position for item in known]
    return Counter(
        item.fingerprint
        for span in (ref.spans if isinstance(ref, ListRef) else ())
        for item in known[bisect_left(positions, span.first) : bisect_right(positions, span.last)]
    )
