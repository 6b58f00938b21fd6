"""Rows of ``graph_values``: the cells that a task wrote, or a checkpoint brought, as bytes and back.

A cell is one value for one channel. A list is cut into its items, each serialised by itself, so that a list that grows
is stored by what it gains. What is small lies in a row with others: a row costs more than 200 bytes beside its content.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import count
from typing import Final

from agent_persistence.frozen import frozen
from agent_persistence.repositories.checkpoints.packing import (
    Blob,
    fingerprint,
    pack,
    pack_json,
    pack_like,
    size_of,
    unpack_json,
)

SMALL: Final = 64
"""Bytes up to which a value that is no list lies beside others."""
LIGHT: Final = 4096
"""Bytes up to which a row is read for the small cells in it."""
_ROW_BYTES: Final = 64 * 1024  # a row is read whole, for one of its items as well
# An item that was read takes 250 bytes. A small row has up to 25 of them, so that these are 50 MB at most, and 5 MB of
# one message a row; a large one has 1,500 texts of 40 bytes, and 20,000 items at most.
_SMALL_ROW: Final = 512
_SMALL_ROWS_REMEMBERED: Final = 8192
_LARGE_ROWS_REMEMBERED: Final = 32
_CONTINUES: Final = 2  # beside 0 for one value and 1 for a list

Place = tuple[int, int]
"""Where an item is: the number of its row, and its own within that."""


@frozen
class Cell:
    """A value for a channel.

    Attributes:
        idx: its place among the writes of its task; ``None`` where a checkpoint brought it.
        items: the items of a list, or the one value that is no list.
        continues: whether the items come behind those of the cell before: a long list has several.
    """

    channel: str
    idx: int | None
    is_list: bool
    items: Sequence[Blob]
    continues: bool = False

    @property
    def is_small(self) -> bool:
        """Whether it needs no row of its own."""
        return not self.is_list and size_of(self.items) <= SMALL


@frozen
class NewRow:
    """A row to be added; ``channel`` is whose items it holds, beside small cells of any channel."""

    channel: str
    cells: bytes
    content: bytes


@frozen
class Task:
    """Who wrote a row."""

    task_id: str
    path: str


@frozen
class StoredItem:
    """An item where it is stored; ``print`` is empty for what is small."""

    place: Place
    kind: str
    size: int
    print: str


@frozen
class StoredCell:
    """A cell where it is stored."""

    channel: str
    idx: int | None
    is_list: bool
    items: Sequence[StoredItem]
    continues: bool


def new_rows(cells: Iterable[Cell], task: Task | None = None, base: tuple[int, bytes] | None = None) -> list[NewRow]:
    """Lay cells into as few rows as keep apart what is read apart, in their order.

    Args:
        task: who wrote them; ``None`` where a checkpoint brings them.
        base: the number and content of a stored row that the new ones may repeat.
    """
    small: list[Cell] = []
    rows: list[list[Cell]] = []
    for cell in cells:
        if cell.is_small:
            small.append(cell)
        else:
            rows += [[part] for part in _parts(cell)]
    if small:
        light = next((row for row in rows if size_of(row[0].items) + len(small) * SMALL <= LIGHT), None)
        if light is None:
            rows.append(small)
        else:
            light += small
    return [_new_row(row, task, base) for row in rows]


def _parts(cell: Cell) -> Iterator[Cell]:
    """Cut a long list, so that no row is large because of how many items it has."""
    start = size = 0
    for place, (_, content) in enumerate(cell.items):
        if place > start and size + len(content) > _ROW_BYTES:
            yield replace(cell, items=cell.items[start:place], continues=start > 0)
            start, size = place, 0
        size += len(content)
    yield replace(cell, items=cell.items[start:], continues=start > 0)


def _new_row(cells: Sequence[Cell], task: Task | None, base: tuple[int, bytes] | None) -> NewRow:
    described = [
        [
            cell.channel,
            cell.idx,
            _CONTINUES if cell.continues else int(cell.is_list),
            [[item[0], len(item[1]), "" if cell.is_small else fingerprint(item)] for item in cell.items],
        ]
        for cell in cells
    ]
    content = b"".join(content for cell in cells for _, content in cell.items)
    head = pack_json([described] if task is None else [described, task.task_id, task.path])
    return NewRow(cells[0].channel, head, pack_like(content, *base) if base else pack(content))


def stored_cells(value_no: int, cells: bytes) -> tuple[Sequence[StoredCell], Task | None]:
    """Read what a row holds, and who wrote it; remembered, for each save looks at all rows of the lists it changes."""
    return (_small_row if len(cells) <= _SMALL_ROW else _large_row)(value_no, cells)


def _read_cells(value_no: int, cells: bytes) -> tuple[Sequence[StoredCell], Task | None]:
    numbers = count()
    described, *task = unpack_json(cells)
    read = [
        StoredCell(
            channel,
            idx,
            bool(kind_of_cell),
            [StoredItem((value_no, next(numbers)), kind, size, print_) for kind, size, print_ in items],
            kind_of_cell == _CONTINUES,
        )
        for channel, idx, kind_of_cell, items in described
    ]
    return read, Task(*task) if task else None


_small_row = lru_cache(_SMALL_ROWS_REMEMBERED)(_read_cells)
_large_row = lru_cache(_LARGE_ROWS_REMEMBERED)(_read_cells)


def stored_blobs(cells: Sequence[StoredCell], whole: bytes) -> dict[Place, Blob]:
    """Read the items of a row, of its content."""
    start = 0
    blobs: dict[Place, Blob] = {}
    for cell in cells:
        for item in cell.items:
            blobs[item.place] = (item.kind, whole[start : start + item.size])
            start += item.size
    return blobs
