"""Measures the memory of this process."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Memory:
    """The memory that Python has allocated since the block began, in bytes; known at its end."""

    grown: int = 0


@contextmanager
def measured() -> Iterator[Memory]:
    """Measure what the block leaves allocated."""
    memory = Memory()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield memory
        gc.collect()
        memory.grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
