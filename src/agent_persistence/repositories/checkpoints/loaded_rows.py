"""Rows of ``graph_values`` that were read, by where they are; and what references to them mean."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.packing import Blob, bases_of, unpack
from agent_persistence.repositories.checkpoints.records import ChannelValue, PendingWrite
from agent_persistence.repositories.checkpoints.refs import Handed, InlineRef, ListRef, Ref, Span, WholeRef
from agent_persistence.repositories.checkpoints.value_rows import (
    StoredCell,
    StoredItem,
    Task,
    stored_blobs,
    stored_cells,
)


class GoneError(Exception):
    """Something that is referred to was deleted since the reference was read."""


@frozen
class _Written:
    """One thing that a task has written, where it is stored."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    is_list: bool
    items: list[StoredItem]


class Shelf:
    """Rows of one namespace of one thread."""

    def __init__(self) -> None:
        self._cells: dict[int, Sequence[StoredCell]] = {}
        self._contents: dict[int, bytes] = {}
        self._blobs: dict[int, dict[tuple[int, int], Blob]] = {}
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._tasks: dict[int, Task] = {}
        self._writes: defaultdict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        """How many bytes were read."""
        return sum(map(len, self._contents.values()))

    def put(self, row: Any) -> None:
        """Add a row; those of tasks in the order of their numbers."""
        if row.value_no not in self._cells:
            self._cells[row.value_no], task = stored_cells(row.value_no, row.cells)
            if task is not None:
                self._tasks[row.value_no] = task
            self._contents[row.value_no] = row.content
            insort(self._numbers[row.channel], row.value_no)
        if row.is_write:
            self._writes[row.checkpoint_id].append(row.value_no)

    def read(self, channel: str, ref: Ref) -> ChannelValue:
        """Return what is referred to.

        Raises:
            GoneError: a part of it is not there.
        """
        if isinstance(ref, InlineRef):
            return ref.blob
        if isinstance(ref, WholeRef):
            return self._blob(ref.place)
        items = [self._blob(item.place) for span in ref.spans for item in self.items(channel, span)]
        if len(items) != ref.length:
            raise GoneError
        return items

    def items(self, channel: str, span: Span) -> Iterator[StoredItem]:
        """The items of a channel from one place to another."""
        numbers = self._numbers[channel]
        for number in numbers[bisect_left(numbers, span.first[0]) :]:
            if number > span.last[0]:
                return
            for item in items_of_channel(self._cells[number], channel):
                if span.first <= item.place <= span.last:
                    yield item

    def pending(self, checkpoint_id: str) -> list[PendingWrite]:
        """What tasks have written at a checkpoint, in the order in which it takes effect."""
        return [
            PendingWrite(one.task_id, one.task_path, one.idx, one.channel, self._value(one))
            for one in self._written(checkpoint_id)
        ]

    def handed(self, checkpoint_id: str, channel: str) -> list[Handed]:
        """What tasks have written to a channel at a checkpoint, by references that need no checkpoint."""
        return [Handed(one.task_id, self._ref(one)) for one in self._written(checkpoint_id) if one.channel == channel]

    def _written(self, checkpoint_id: str) -> list[_Written]:
        """The writes that count, in the order of their effect.

        A task that is run again repeats its writes, of which the first count; of the special ones, whose places are
        below zero, the last do.
        """
        found: dict[tuple[str, int], _Written] = {}
        counts: dict[tuple[str, int], bool] = {}  # whether what comes behind a cell belongs to what was found
        for number in self._writes[checkpoint_id]:
            task = self._tasks[number]
            for cell in self._cells[number]:
                if cell.idx is None:
                    continue
                key = task.task_id, cell.idx
                if not cell.continues:
                    counts[key] = cell.idx < 0 or key not in found
                    if counts[key]:
                        found[key] = _Written(
                            task.task_id, task.path, cell.idx, cell.channel, cell.is_list, list(cell.items)
                        )
                elif counts.get(key, False):
                    found[key].items.extend(cell.items)
        return sorted(found.values(), key=lambda one: (one.task_path, one.task_id, one.idx))

    def _value(self, written: _Written) -> ChannelValue:
        blobs = [self._blob(item.place) for item in written.items]
        return blobs if written.is_list else blobs[0]

    def _ref(self, written: _Written) -> Ref:
        if not written.is_list:
            [item] = written.items
            return WholeRef(item.place) if item.print else InlineRef(self._blob(item.place))
        spans = []
        for _, items in groupby(written.items, key=lambda item: item.place[0]):
            places = [item.place for item in items]
            spans.append(Span(places[0], places[-1]))
        return ListRef(len(written.items), spans)

    def _blob(self, place: tuple[int, int]) -> Blob:
        number = place[0]
        if number not in self._cells:
            raise GoneError
        if number not in self._blobs:
            self._blobs[number] = stored_blobs(self._cells[number], self.content(number))
        return self._blobs[number][place]

    def content(self, number: int) -> bytes:
        """The content of a row."""
        packed = self._contents[number]
        bases = bases_of(packed)
        if not all(base in self._contents for base in bases):
            raise GoneError
        return unpack(packed, {base: unpack(self._contents[base]) for base in bases})

    def missing(self) -> set[int]:
        """The rows, not yet here, that others are kept as what distinguishes them from."""
        return {base for content in self._contents.values() for base in bases_of(content)} - self._contents.keys()

    def base(self) -> tuple[int, bytes] | None:
        """Return the number and content of a row that is no delta itself, so that others can be deltas against it."""
        whole = ((number, unpack(packed)) for number, packed in self._contents.items() if not bases_of(packed))
        return next(whole, None)


def items_of_channel(cells: Iterable[StoredCell], channel: str) -> Iterator[StoredItem]:
    """The items of a row that belong to a channel."""
    for cell in cells:
        if cell.channel == channel:
            yield from cell.items


def known_items(rows: Sequence[Any], channel: str) -> list[StoredItem]:
    """The items of a channel in rows that it leads, in the order of their numbers."""
    return [
        item
        for row in rows
        if row.channel == channel
        for item in items_of_channel(stored_cells(row.value_no, row.cells)[0], channel)
    ]
