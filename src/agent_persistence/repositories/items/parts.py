"""Long lists of items, in parts that a statement writes or reads within its time limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

# The time limit is that of a statement: on a busy server 60,000 items at once may exceed it, 1,000 take 80 ms.
_AT_ONCE: Final = 1000
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024

T = TypeVar("T")


def in_parts(wanted: Iterable[T], size: Callable[[T], int] = lambda _: 0) -> Iterator[list[T]]:
    """Yield as many items or keys at a time as one statement takes.

    Args:
        wanted: the items or keys.
        size: returns the bytes of one; an item that is larger than a part is a part by itself.
    """
    part: list[T] = []
    total = 0
    for one in wanted:
        total += size(one)
        if part and (total > _BYTES_AT_ONCE or len(part) == _AT_ONCE):
            yield part
            part, total = [], size(one)
        part.append(one)
    if part:
        yield part


def fits_a_part(count: int, size: int) -> bool:
    """Whether so many items of so many bytes in all are one part."""
    return count <= _AT_ONCE and size <= _BYTES_AT_ONCE
