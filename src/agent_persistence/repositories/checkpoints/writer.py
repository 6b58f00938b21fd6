"""Saving checkpoints and what tasks write: each value once, however many checkpoints have it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from agent_persistence.concurrency.offload import offload
from agent_persistence.encoding.exact_json import EncodedJSON
from agent_persistence.errors import CheckpointingDisabledError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.records import ANY_USER
from agent_persistence.repositories.checkpoints.loaded_rows import known_items
from agent_persistence.repositories.checkpoints.packing import Blob, fingerprint, pack_blob, size_of
from agent_persistence.repositories.checkpoints.reader import CheckpointReader
from agent_persistence.repositories.checkpoints.records import ChannelValue, NewCheckpoint, NewWrites
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
    known_cells,
    lock_thread,
    save_checkpoint,
)
from agent_persistence.repositories.checkpoints.value_rows import (
    SMALL,
    Cell,
    NewRow,
    Place,
    StoredItem,
    Task,
    new_rows,
    stored_cells,
)
from agent_persistence.repositories.threads.repository import ThreadRepository
from agent_persistence.sessions.commit_evidence import RowEvidence
from agent_persistence.sessions.scope import Scope

_INPUT: Final = "__start__"
"""LangGraph's channel of what a run is given."""
_TASK_OF_INPUT: Final = f"~__pregel_pull, {_INPUT}"
"""The path of the task that hands it over to the other channels."""


class CheckpointWriter:
    """Saves within one unit of work."""

    def __init__(self, scope: Scope[Any, Any]) -> None:
        self._scope = scope
        self._tables = scope.models.side_tables.graph
        self._of_anybody = scope.owner is ANY_USER

    async def checkpoint(self, new: NewCheckpoint) -> dict[str, list[int]]:
        """Save a checkpoint; return, for its lists that changed, which of their items the parent's did not have."""
        self._refuse_if_disabled()
        parent = await self._lock(new.thread_id, new.checkpoint_ns, new.parent_id, starts=new.may_start_thread)
        channels: dict[str, Ref] = {name: parent.channels[name] for name in new.unchanged if name in parent.channels}
        changed = {name: value for name, value in new.changed.items() if value is not None}
        for name in new.unchanged:
            if name not in channels and (value := new.dump(name)) is not None:
                changed[name] = value
        changes = Changes(changed, parent.channels)
        rows: Sequence[Any] = ()
        if changes.wanted or changes.looked_for:
            rows = await self._scope.fetch(
                known_cells(self._scope.models),
                thread_id=new.thread_id,
                checkpoint_ns=new.checkpoint_ns,
                parent_id=new.parent_id,
                wanted_channel=list(changes.wanted),
                wanted_first_no=list(changes.wanted.values()),
                changed=changes.looked_for,
            )
        changes.compare(sorted(rows, key=lambda row: int(row.value_no)))
        bases = await self._bases(new, [cell.channel for cell in changes.cells])
        rows_to_add = await _rows(changes.cells, bases=bases)
        channels |= changes.refs(await self._add(new, rows_to_add, None) if rows_to_add else [])
        await self._save(new, Refs(channels, {}))
        return changes.fresh

    async def writes(self, new: NewWrites) -> None:
        """Save what a task has written."""
        self._refuse_if_disabled()
        cells = [
            Cell(channel, idx, isinstance(written, list), written if isinstance(written, list) else [written])
            for idx, channel, written in new.writes
        ]
        large = {cell.channel for cell in cells if not cell.is_small}
        base = await self._input(new) if large and new.task_path == _TASK_OF_INPUT else None
        task, bases = Task(new.task_id, new.task_path), dict.fromkeys(large, base) if base else {}
        rows = await _rows(cells, task, bases=bases)
        if rows and not await self._add(new, rows, new.checkpoint_id):
            if not new.may_start_thread:
                raise ThreadNotFoundError(new.thread_id)
            await self._start(new.thread_id)
            await self._add(new, rows, new.checkpoint_id)

    async def _lock(self, thread_id: Any, namespace: str, parent_id: str | None, *, starts: bool) -> Refs:
        statement = lock_thread(
            self._scope.models, touch_seconds=self._scope.options.touch_interval, of_any_user=self._of_anybody
        )
        values = {"checkpoint_ns": namespace, "parent_id": parent_id, **self._thread(thread_id)}
        rows = await self._scope.fetch(statement, **values)
        if not rows:
            if not starts:
                raise ThreadNotFoundError(thread_id)
            await self._start(thread_id)
            rows = await self._scope.fetch(statement, **values)
        return NO_REFS if rows[0].refs is None else read_refs(rows[0].refs)

    async def _start(self, thread_id: Any) -> None:
        """Make the thread, unless somebody did so since."""
        threads = ThreadRepository(self._scope)
        try:
            await threads.create(thread_id=thread_id)
        except ThreadExistsError:
            if await threads.get(thread_id) is None:
                raise

    async def _add(
        self, new: NewCheckpoint | NewWrites, rows: Sequence[NewRow], checkpoint_id: str | None
    ) -> list[tuple[int, NewRow]]:
        scope = self._scope
        statement = add_values(scope.models, touch_seconds=scope.options.touch_interval, of_any_user=self._of_anybody)
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
        # Numbered under the lock in the order in which they were given.
        return list(zip(sorted(row.value_no for row in added), rows, strict=False))

    async def _bases(self, new: NewCheckpoint, channels: Sequence[str]) -> dict[str, dict[int, bytes]]:
        """What tasks have written at the parent: what a channel made of that is mostly like it."""
        home, reading = (new.thread_id, new.checkpoint_ns), CheckpointReader(self._scope)
        bases: dict[str, dict[int, bytes]] = {}
        if channels and new.parent_id is not None:
            shelf = await reading.written(home, new.parent_id, channels)
            bases = {channel: shelf.written(channel) for channel in channels}
        if _INPUT in channels:  # the task that hands it over may have come first: runs save in the background
            bases[_INPUT] = (await reading.written(home, new.checkpoint_id)).written()
        return bases

    async def _input(self, new: NewWrites) -> dict[int, bytes]:
        """The input of the run, by its row, if it is there: its task writes mostly the same into other channels."""
        refs = await self._lock(new.thread_id, new.checkpoint_ns, new.checkpoint_id, starts=new.may_start_thread)
        ref = refs.channels.get(_INPUT)
        if not isinstance(ref, WholeRef):
            return {}
        shelf = await CheckpointReader(self._scope).referred((new.thread_id, new.checkpoint_ns), _INPUT, ref)
        return shelf.base(ref.place[0])

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
            new_exact_metadata=None if new.exact_metadata is None else pack_blob(new.exact_metadata),
            new_body=pack_blob(new.body),
            new_refs=write_refs(refs),
        )

    def _refuse_if_disabled(self) -> None:
        if not self._scope.options.save_states:
            raise CheckpointingDisabledError

    def _encoded(self, metadata: Mapping[str, Any]) -> EncodedJSON:
        return self._scope.encoded(dict(metadata), "metadata")

    def _thread(self, thread_id: Any) -> dict[str, Any]:
        return {"thread_ids": [thread_id], "owners": [None if self._of_anybody else self._scope.owner]}

    def _added(self, row: Any) -> RowEvidence:
        key = {"thread_id": row.thread_id, "value_no": row.value_no}
        return RowEvidence(self._tables.values, key, ("created_at", row.created_at))

    def _saved(self, row: Any) -> RowEvidence:
        key = {name: getattr(row, name) for name in ("thread_id", "checkpoint_ns", "checkpoint_id")}
        return RowEvidence(self._tables.checkpoints, key, ("created_at", row.created_at))


class Changes:
    """The new values of a checkpoint's channels, compared with what is stored of them.

    Attributes:
        wanted: for each channel, the number from which on its rows are to be looked at.
        looked_for: the channels to be looked for among what tasks wrote at the parent.
        cells: what is not stored yet.
        fresh: for each list, the places of items that the parent's list does not have.
    """

    def __init__(self, values: Mapping[str, ChannelValue], parent: Mapping[str, Ref]) -> None:
        self._lists = {name: value for name, value in values.items() if isinstance(value, list)}
        self._wholes: dict[str, Blob] = {name: value for name, value in values.items() if not isinstance(value, list)}
        self._inline = {name for name, blob in self._wholes.items() if len(blob[1]) <= SMALL}
        self._parent = parent
        self._layouts: dict[str, tuple[Layout, list[StoredItem]]] = {}
        self._found: dict[str, Place] = {}
        self.cells: list[Cell] = []
        self.fresh: dict[str, list[int]] = {}
        large = self._wholes.keys() - self._inline
        self.wanted = {name: _first_no(parent.get(name)) for name in self._lists if self._lists[name]}
        self.wanted |= {name: ref.place[0] for name in large if isinstance(ref := parent.get(name), WholeRef)}
        self.looked_for = sorted(large)

    def compare(self, rows: Sequence[Any]) -> None:
        """Find out what is stored, in rows in the order of their numbers."""
        for name, blobs in self._lists.items():
            prints = [fingerprint(blob) for blob in blobs]
            known = known_items(rows, name)
            layout = lay_out(prints, known)
            self._layouts[name] = layout, known
            before = _of_parent(self._parent.get(name), known)
            self.fresh[name] = [place for place, print_ in enumerate(prints) if print_ not in before]
            if layout.added:
                self.cells.append(Cell(name, None, is_list=True, items=[blobs[place] for place in layout.added]))
        for name in self.looked_for:
            print_ = fingerprint(self._wholes[name])
            found = next((item.place for item in known_items(rows, name)[::-1] if item.print == print_), None)
            if found is None:
                self.cells.append(Cell(name, None, is_list=False, items=[self._wholes[name]]))
            else:
                self._found[name] = found

    def refs(self, added: Sequence[tuple[int, NewRow]]) -> dict[str, Ref]:
        """Refer to all values, those of the added rows included."""
        places: dict[str, list[Place]] = {}
        for number, row in added:
            for cell in stored_cells(number, row.cells)[0]:
                places.setdefault(cell.channel, []).extend(item.place for item in cell.items)
        refs: dict[str, Ref] = {name: InlineRef(self._wholes[name]) for name in self._inline}
        for name in self.looked_for:
            refs[name] = WholeRef(self._found[name] if name in self._found else places[name][0])
        for name, (layout, known) in self._layouts.items():
            all_places = [item.place for item in known] + places.get(name, [])
            refs[name] = ListRef(len(self._lists[name]), layout.spans(all_places))
        return refs


async def _rows(
    cells: Sequence[Cell], task: Task | None = None, *, bases: Mapping[str, Mapping[int, bytes]]
) -> list[NewRow]:
    return await offload(partial(new_rows, cells, task, bases=bases), size=sum(size_of(cell.items) for cell in cells))


def _first_no(ref: Ref | None) -> int:
    """The first row of a list's items; of a channel that had no list, the first of all its rows."""
    return min((span.first[0] for span in ref.spans), default=0) if isinstance(ref, ListRef) else 0


def _of_parent(ref: Ref | None, known: Sequence[StoredItem]) -> set[str]:
    """The fingerprints of what the parent's list has."""
    places = [item.place for item in known]
    return {
        item.print
        for span in (ref.spans if isinstance(ref, ListRef) else ())
        for item in known[bisect_left(places, span.first) : bisect_right(places, span.last)]
    }
