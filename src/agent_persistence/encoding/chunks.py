"""Streams in compressed chunks."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, Final

from agent_persistence.errors import InvalidInputError
from agent_persistence.records import StateStream

# At most a few chunks and their compressed forms are in memory, whatever the size of the stream.
CHUNK_BYTES: Final = 1024 * 1024
ENCODING: Final = "zlib"
# zlib's level 1 takes a third of the default's time, for a tenth more bytes. zstd compresses better at the same speed,
# but is in the standard library from Python 3.14 on only.
_FASTEST: Final = 1


class Tally:
    """Counts and digests chunks in their order.

    Attributes:
        chunks: how many it has counted.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._size = 0
        self.chunks = 0

    @property
    def stream(self) -> StateStream:
        """The description of the chunks counted so far."""
        return StateStream(self._size, self._digest.hexdigest(), self.chunks)

    def count(self, chunk: bytes) -> None:
        """Count the next chunk; slow enough to be called in a thread."""
        self._digest.update(chunk)
        self._size += len(chunk)
        self.chunks += 1


def pack(chunk: bytes) -> bytes:
    """Return a chunk compressed; slow enough to be called in a thread."""
    return zlib.compress(chunk, _FASTEST)


def unpack(packed: bytes) -> bytes:
    """Return a compressed chunk decompressed; slow enough to be called in a thread.

    Raises:
        zlib.error: the chunk is damaged, or longer than any that ``pack`` was given.
    """
    # Not zlib.decompress, which has no limit: a chunk of a megabyte that another program wrote can become 1 GB.
    reader = zlib.decompressobj()
    chunk = reader.decompress(packed, CHUNK_BYTES + 1)
    if not reader.eof or len(chunk) > CHUNK_BYTES:
        raise zlib.error("the chunk is too long, or incomplete")
    return chunk


async def chunked(source: AsyncIterable[Any], field: str) -> AsyncGenerator[bytes, None]:
    """Yield a stream in chunks of equal size except the last, whatever pieces the stream yields.

    Raises:
        InvalidInputError: the stream yields something that is not bytes.
    """
    waiting = bytearray()
    async for piece in source:
        if not isinstance(piece, bytes | bytearray | memoryview):
            raise InvalidInputError(field, f"must give bytes, not {type(piece).__name__}")
        # A view, whose slices copy nothing; of bytes, because a piece may have larger items and len() counts items.
        rest = memoryview(piece).cast("B")
        while rest:
            room = CHUNK_BYTES - len(waiting)
            waiting += rest[:room]
            rest = rest[room:]
            if len(waiting) == CHUNK_BYTES:
                yield bytes(waiting)
                waiting.clear()
    if waiting:
        yield bytes(waiting)
