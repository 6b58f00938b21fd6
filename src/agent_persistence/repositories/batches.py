"""How much is deleted in one transaction, which must not take long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def within(rows: Iterable[Any], most: int) -> Iterator[Any]:
    """Give the first of the rows, as long as their ``size`` makes no more than that; the very first one anyway."""
    size = 0
    for row in rows:
        if size and size + row.size > most:
            return
        size += row.size
        yield row
