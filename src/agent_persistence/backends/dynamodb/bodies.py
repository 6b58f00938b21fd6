"""States as bytes: compressed if they are large, split if they exceed an item.

The first byte is the format of the others: ``j`` is JSON, ``z`` is JSON in zlib's format, whose checksum detects a
missing part.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

from agent_persistence.concurrency.offload import offload
from agent_persistence.encoding.exact_json import decode_json

_PLAIN: Final = b"j"
_COMPRESSED: Final = b"z"
_MIN_COMPRESSED_BYTES: Final = 1024  # writes are billed by the kilobyte, so less would save nothing

PART_BYTES: Final = 350_000
"""The size of a part: an item may have 400 KB, its keys and attribute names included."""


async def encode_body(json: bytes) -> bytes:
    """Encode a state's JSON as bytes for the table."""
    if len(json) < _MIN_COMPRESSED_BYTES:
        return _PLAIN + json
    return await offload(len(json), _compress, json)


async def decode_body(body: bytes) -> Any:
    """Decode a state.

    Raises:
        ValueError: a part is missing, or another program wrote the bytes.
    """
    return await offload(len(body), _decode, body)


def split(body: bytes) -> list[bytes]:
    """Split bytes into parts, each of which fits into an item."""
    return [body[start : start + PART_BYTES] for start in range(0, len(body), PART_BYTES)]


def _compress(json: bytes) -> bytes:
    # The fastest level, because the caller waits for it.
    return _COMPRESSED + zlib.compress(json, 1)


def _decode(body: bytes) -> Any:
    if body[:1] == _PLAIN:
        return decode_json(body[1:])
    if body[:1] != _COMPRESSED:
        raise ValueError("not a state")
    try:
        return decode_json(zlib.decompress(body[1:]))
    except zlib.error as error:
        raise ValueError("a part is missing") from error
