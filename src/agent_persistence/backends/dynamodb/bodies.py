"""A state as bytes: compressed where that pays, in parts where one item cannot hold it.

The first byte says how to read the others: ``j``, JSON, or ``z``, JSON in zlib's format, which notices when a part is
missing.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Any, Final

from agent_persistence.encoding.exact_json import decode_json

_PLAIN: Final = b"j"
_COMPRESSED: Final = b"z"
_WORTH_COMPRESSING: Final = 1024  # bytes: what is written is paid by the kilobyte
_WORTH_A_THREAD: Final = 64 * 1024  # bytes: milliseconds, in which nobody else would be served

PART_BYTES: Final = 350_000
"""Of the 400 KB that an item may have with its names and keys."""


async def pack(json: bytes) -> bytes:
    """Make bytes of a state, as few as it takes a moment to make."""
    if len(json) < _WORTH_COMPRESSING:
        return _PLAIN + json
    packed: bytes = await _aside(_compress, json)
    return packed


async def unpack(body: bytes) -> Any:
    """Read a state.

    Raises:
        ValueError: it is not whole, or was written by somebody else.
    """
    return await _aside(_read, body)


def cut(body: bytes) -> list[bytes]:
    """Cut it into parts that an item can hold."""
    return [body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES)]


async def _aside(work: Any, given: bytes) -> Any:
    return work(given) if len(given) < _WORTH_A_THREAD else await asyncio.to_thread(work, given)


def _compress(json: bytes) -> bytes:
    return _COMPRESSED + zlib.compress(json, 1)


def _read(body: bytes) -> Any:
    if body[:1] == _PLAIN:
        return decode_json(body[1:])
    if body[:1] != _COMPRESSED:
        raise ValueError("not a state")
    try:
        return decode_json(zlib.decompress(body[1:]))
    except zlib.error as error:
        raise ValueError("not whole") from error
