"""Chunks of streams are read back equal, and others are refused before they fill the memory."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from collections.abc import Callable

import pytest

from agent_persistence.encoding.chunks import CHUNK_BYTES, pack, unpack


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES])
@pytest.mark.parametrize("make", [bytes, os.urandom], ids=["zeros", "random"])
def test_a_chunk_is_unpacked_equal(make: Callable[[int], bytes], size: int) -> None:
    chunk = make(size)

    assert unpack(pack(chunk)) == chunk


@pytest.mark.parametrize("size", [CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 256 * CHUNK_BYTES])
def test_a_chunk_that_is_too_long_is_refused_at_the_limit(size: int) -> None:
    packed = zlib.compress(bytes(size), 9)
    tracemalloc.start()
    try:
        with pytest.raises(zlib.error):
            unpack(packed)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 4 * CHUNK_BYTES


@pytest.mark.parametrize("cut", [1, 4, 5, 100])
def test_a_chunk_that_was_cut_is_refused(cut: int) -> None:
    packed = pack(os.urandom(1_000))

    with pytest.raises(zlib.error):
        unpack(packed[:-cut])
