"""Loaded rows of ``graph_values``, and the values that references to them stand for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, Final

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import DELTA, Blob, bases_of, decompress
from agent_persistence.repositories.checkpoints.known_graphs import NOTHING, KnownNamespace
from agent_persistence.repositories.checkpoints.records import ChannelValue, PendingWrite
from agent_persistence.repositories.checkpoints.refs import (
    InheritedWrite,
    InlineRef,
    ListRef,
    Ref,
    Span,
    WholeRef,
    last_number,
)
from agent_persistence.repositories.checkpoints.value_rows import (
    LIGHT,
    Position,
    StoredItem,
    StoredValue,
    Task,
    blobs_of,
    size_of_row,
    stored_values,
)

_LIGHT_ROWS_CACHED: Final = 4096
# Each run reads the messages of its thread again. To inflate one takes 4 us, to find it here 0.3.
_light_content: Final = lru_cache(_LIGHT_ROWS_CACHED)(decompress)  # 4 MB of usual messages, and 32 MB at most


class GoneError(Exception):
    """A row was deleted after a reference to it was read."""


@frozen
class _Write:
    """A stored write of a task."""

    task: Task
    idx: int
    value: StoredValue
    items: list[StoredItem]


class LoadedRows:
    """The loaded rows of one namespace of one thread.

    Args:
        kept: what this process knows of the namespace, and is still so: its contents need not be loaded.
        is_unchanged: whether the namespace has no other rows, so that its items need not be loaded either.

    Attributes:
        used: by position, the items that values consist of that were asked for.
    """

    def __init__(self, kept: KnownNamespace = NOTHING, *, is_unchanged: bool = False) -> None:
        self._kept = kept.contents or {}
        # Rows behind these may have been lost by the server, and their numbers given to others.
        self._kept_up_to = kept.last_no if is_unchanged else last_number(kept.refs, {})
        self._unchanged = kept if is_unchanged else None
        self.used: dict[Position, Blob] = {}
        self._values: dict[int, Sequence[StoredValue]] = {}
        self._contents: dict[int, bytes] = {}
        self._blobs: dict[int, dict[Position, Blob]] = {}
        self._numbers: defaultdict[str, list[int]] = defaultdict(list)
        self._tasks: dict[int, Task] = {}
        self._writes: defaultdict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        """Return the number of bytes that were read."""
        return sum(map(len, self._contents.values()))

    def add(self, row: Any) -> None:
        """Add a row; rows of tasks must be added in the order of their numbers."""
        # A row can be read twice: as part of a list, and as a write of a task; once without its content.
        if row.value_no not in self._values:
            self._values[row.value_no], task = stored_values(row.value_no, row.cells)
            if task is not None:
                self._tasks[row.value_no] = task
            insort(self._numbers[row.channel], row.value_no)
        if row.content is not None:
            self._contents[row.value_no] = row.content
        if row.is_write:
            self._writes[row.checkpoint_id].append(row.value_no)

    def resolve(self, channel: str, ref: Ref) -> ChannelValue:
        """Return the value of a channel that a reference stands for.

        Raises:
            GoneError: a row of it is not there.
        """
        if isinstance(ref, InlineRef):
            return ref.blob
        if isinstance(ref, WholeRef):
            return self._blob(ref.position)
        items = [self._blob(item.position) for span in ref.spans for item in self._items(channel, span)]
        # A span has only ends: a row between them that was deleted shows only in the length.
        if len(items) != ref.length:
            raise GoneError
        return items

    def _items(self, channel: str, span: Span) -> Iterable[StoredItem]:
        kept = self._unchanged
        return self._loaded_items(channel, span) if kept is None else kept.items_of(channel, span)

    def _loaded_items(self, channel: str, span: Span) -> Iterator[StoredItem]:
        numbers = self._numbers[channel]
        for number in numbers[bisect_left(numbers, span.first[0]) :]:
            if number > span.last[0]:
                return
            for item in items_of_channel(self._values[number], channel):
                if span.first <= item.position <= span.last:
                    yield item

    def items(self, channel: str, *, up_to: int) -> list[StoredItem]:
        """Return the items of a channel in the rows up to a number."""
        numbers = self._numbers[channel]
        rows = numbers[: bisect_right(numbers, up_to)]
        return [item for number in rows for item in items_of_channel(self._values[number], channel)]

    def pending(self, checkpoint_id: str) -> list[PendingWrite]:
        """Return the writes of tasks at a checkpoint, in the order of their effect."""
        return [
            PendingWrite(one.task.task_id, one.task.path, one.idx, one.value.channel, self._value(one))
            for one in self._effective_writes(checkpoint_id)
        ]

    def inherited(self, checkpoint_id: str, channel: str) -> list[InheritedWrite]:
        """Return the writes to a channel at a checkpoint as references, which stay valid without the checkpoint."""
        return [
            InheritedWrite(one.task.task_id, self._ref(one))
            for one in self._effective_writes(checkpoint_id)
            if one.value.channel == channel
        ]

    def _effective_writes(self, checkpoint_id: str) -> list[_Write]:
        """Return the writes that count, in the order of their effect.

        A task that runs again repeats its writes: the first of each index counts. LangGraph's special writes have
        negative indexes: the last of each counts.
        """
        found: dict[tuple[str, int], _Write] = {}
        counts: dict[tuple[str, int], bool] = {}  # whether the parts that follow a value belong to the one in found
        for number in self._writes[checkpoint_id]:
            task = self._tasks[number]
            for value in self._values[number]:
                if value.idx is None:
                    continue
                key = task.task_id, value.idx
                if not value.continues:
                    counts[key] = value.idx < 0 or key not in found
                    if counts[key]:
                        found[key] = _Write(task, value.idx, value, list(value.items))
                elif counts.get(key, False):
                    found[key].items.extend(value.items)
        return sorted(found.values(), key=lambda one: (one.task.path, one.task.task_id, one.idx))

    def _value(self, write: _Write) -> ChannelValue:
        blobs = [self._blob(item.position) for item in write.items]
        return blobs if write.value.is_list else blobs[0]

    def _ref(self, write: _Write) -> Ref:
        if not write.value.is_list:
            [item] = write.items
            # A small value shares its row, so that a reference would keep the others from being deleted.
            return WholeRef(item.position) if item.fingerprint else InlineRef(self._blob(item.position))
        spans = []
        for _, items in groupby(write.items, key=lambda item: item.position[0]):
            positions = [item.position for item in items]
            spans.append(Span(positions[0], positions[-1]))
        return ListRef(len(write.items), spans)

    def _blob(self, position: Position) -> Blob:
        number = position[0]
        if number <= self._kept_up_to and (kept := self._kept.get(position)) is not None:
            self.used[position] = kept
            return kept
        if number not in self._contents:
            raise GoneError
        # Decompressed once for all items of the row, and only if one is asked for.
        if number not in self._blobs:
            self._blobs[number] = blobs_of(self._values[number], self._content(number))
        found = self.used[position] = self._blobs[number][position]
        return found

    def _content(self, number: int) -> bytes:
        compressed = self._contents[number]
        if size_of_row(self._values[number]) <= LIGHT and compressed[:1] != DELTA:
            return _light_content(compressed)
        bases = bases_of(compressed)
        if not all(base in self._contents for base in bases):
            raise GoneError
        return decompress(compressed, {base: decompress(self._contents[base]) for base in bases})

    def missing_bases(self) -> set[int]:
        """Return the numbers of the rows that loaded deltas rest on and that are not loaded."""
        return {base for content in self._contents.values() for base in bases_of(content)} - self._contents.keys()

    def base(self) -> tuple[int, bytes] | None:
        """Return the number and content of a row that is no delta itself, so that others can be deltas against it."""
        whole = ((number, decompress(content)) for number, content in self._contents.items() if not bases_of(content))
        return next(whole, None)


def items_of_channel(values: Iterable[StoredValue], channel: str) -> Iterator[StoredItem]:
    """Yield the items of a row that belong to a channel."""
    for value in values:
        if value.channel == channel:
            yield from value.items


def known_items(rows: Sequence[Any], channel: str) -> list[StoredItem]:
    """Return the items of a channel in those rows whose first value is the channel's, in the order of the rows."""
    return [
        item
        for row in rows
        if row.channel == channel
        for item in items_of_channel(stored_values(row.value_no, row.cells)[0], channel)
    ]
