"""Rows of ``graph_values``: the values that a task wrote or a checkpoint brought, as bytes and back.

The column ``cells`` describes the values of a row, the column ``content`` holds their bytes. A list is stored item by
item, each serialised separately, so that a growing list costs only its new items. Small values share a row with others:
a row costs more than 200 bytes in addition to its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from operator import attrgetter
from typing import Any, Final

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.compression import (
    Blob,
    compress,
    compress_delta,
    compress_json,
    decompress_json,
    fingerprint,
    size_of,
)

SMALL: Final = 64
"""The maximum size in bytes of a value, not a list, that shares a row."""
LIGHT: Final = 4096
"""The maximum size in bytes of a row that is read for the small values in it."""
_ROW_BYTES: Final = 64 * 1024  # a row is read whole, even for one of its items
# An item takes 250 bytes in memory. A small row has up to 25 of them, so that the cache of small rows takes 50 MB at
# most, and 5 MB with one message a row; a large row has 1,500 texts of 40 bytes, and 20,000 items at most.
_SMALL_ROW: Final = 512
_SMALL_ROWS_CACHED: Final = 8192
_LARGE_ROWS_CACHED: Final = 32
_CONTINUES: Final = 2  # the third kind of a value, beside 0 for one item and 1 for a list

Position = tuple[int, int]
"""Where an item is stored: the number of its row, and its index in the row. Later items compare greater."""


@frozen
class NewValue:
    """A value of a channel to store.

    Attributes:
        idx: LangGraph's index of the write within its task; ``None`` for a checkpoint's value.
        items: the items of a list, or the value as the only item.
        continues: whether the items belong to the list of the value before, which is too long for one row.
    """

    channel: str
    idx: int | None
    is_list: bool
    items: Sequence[Blob]
    continues: bool = False

    @property
    def is_small(self) -> bool:
        """Whether the value shares a row with others."""
        return not self.is_list and size_of(self.items) <= SMALL


@frozen
class NewValueRow:
    """A row to add; ``channel`` is that of its first value, and small values of any channel may follow.

    Attributes:
        values: the values; the number in the positions of their items is 0.
        plain: the content before it was compressed.
    """

    channel: str
    cells: bytes
    content: bytes
    values: Sequence[StoredValue]
    plain: bytes

    def items(self, number: int) -> list[StoredItem]:
        """Return the items of the row's channel, as they are stored in a row of this number."""
        return [
            StoredItem((number, item.position[1]), item.kind, item.size, item.fingerprint)
            for value in self.values
            if value.channel == self.channel
            for item in value.items
        ]

    def blobs(self, number: int) -> dict[Position, Blob]:
        """Return the items of all values, by their positions in a row of this number."""
        return {(number, index): blob for (_, index), blob in blobs_of(self.values, self.plain).items()}


@frozen
class Task:
    """The task that wrote a row."""

    task_id: str
    path: str


@frozen
class StoredItem:
    """The description of a stored item; ``fingerprint`` is empty for small values, which are not searched for."""

    position: Position
    kind: str
    size: int
    fingerprint: str


position_of: Final = attrgetter("position")
"""Returns the position of a stored item."""


@frozen
class StoredValue:
    """The description of a stored value; see ``NewValue``."""

    channel: str
    idx: int | None
    is_list: bool
    items: Sequence[StoredItem]
    continues: bool


def new_value_rows(
    values: Iterable[NewValue], task: Task | None = None, base: tuple[int, bytes] | None = None
) -> list[NewValueRow]:
    """Distribute values over rows, in their order: one for each large value, and one of them for all small values.

    Args:
        values: the values.
        task: the task that wrote them; ``None`` for a checkpoint's values.
        base: the number and content of a stored row that the values may repeat.
    """
    small: list[NewValue] = []
    rows: list[list[NewValue]] = []
    for value in values:
        if value.is_small:
            small.append(value)
        else:
            rows += [[part] for part in _parts(value)]
    if small:
        # Only a light row is read for its small values: beside a large value, each read of them would fetch that too.
        light = next((row for row in rows if size_of(row[0].items) + len(small) * SMALL <= LIGHT), None)
        if light is None:
            rows.append(small)
        else:
            light += small
    return [_new_row(row, task, base) for row in rows]


def _parts(value: NewValue) -> Iterator[NewValue]:
    """Split a list whose items do not fit into one row; an item of any size does."""
    start = size = 0
    for index, (_, content) in enumerate(value.items):
        if index > start and size + len(content) > _ROW_BYTES:
            yield replace(value, items=value.items[start:index], continues=start > 0)
            start, size = index, 0
        size += len(content)
    yield replace(value, items=value.items[start:], continues=start > 0)


def _new_row(values: Sequence[NewValue], task: Task | None, base: tuple[int, bytes] | None) -> NewValueRow:
    described = [
        [
            value.channel,
            value.idx,
            _CONTINUES if value.continues else int(value.is_list),
            [[item[0], len(item[1]), "" if value.is_small else fingerprint(item)] for item in value.items],
        ]
        for value in values
    ]
    content = b"".join(content for value in values for _, content in value.items)
    cells = compress_json([described] if task is None else [described, task.task_id, task.path])
    compressed = compress_delta(content, *base) if base else compress(content)
    return NewValueRow(values[0].channel, cells, compressed, _stored(0, described), content)


def stored_values(value_no: int, cells: bytes) -> tuple[Sequence[StoredValue], Task | None]:
    """Read the description of a row; cached, because each save looks at all rows of the lists that it changes."""
    return (_small_row if len(cells) <= _SMALL_ROW else _large_row)(value_no, cells)


def _read_cells(value_no: int, cells: bytes) -> tuple[Sequence[StoredValue], Task | None]:
    described, *task = decompress_json(cells)
    return _stored(value_no, described), Task(*task) if task else None


def _stored(value_no: int, described: Sequence[Sequence[Any]]) -> list[StoredValue]:
    indexes = count()  # over all values of the row
    return [
        StoredValue(
            channel,
            idx,
            bool(kind_of_value),
            [StoredItem((value_no, next(indexes)), kind, size, print_) for kind, size, print_ in items],
            kind_of_value == _CONTINUES,
        )
        for channel, idx, kind_of_value, items in described
    ]


# Keyed by the bytes too: numbers repeat in other databases. Two caches, because large rows would displace small ones.
_small_row = lru_cache(_SMALL_ROWS_CACHED)(_read_cells)
_large_row = lru_cache(_LARGE_ROWS_CACHED)(_read_cells)


def size_of_row(values: Sequence[StoredValue]) -> int:
    """Return the number of bytes in the content of a row, before it was compressed."""
    return sum([item.size for value in values for item in value.items])


def blobs_of(values: Sequence[StoredValue], content: bytes) -> dict[Position, Blob]:
    """Split the content of a row into its items."""
    start = 0
    blobs: dict[Position, Blob] = {}
    for value in values:
        for item in value.items:
            blobs[item.position] = (item.kind, content[start : start + item.size])
            start += item.size
    return blobs
