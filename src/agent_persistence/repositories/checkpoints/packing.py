"""Serialised values as bytes of a column, compressed where that is worth it."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

Blob = tuple[str, bytes]
"""What a serialiser made of a value: the name of its format, and the bytes."""

_PLAIN: Final = b"\x00"
_DEFLATED: Final = b"\x01"
LIKE_ROWS: Final = b"\x02"
"""What a content begins with that is kept as what distinguishes it from others."""
_WINDOW: Final = 32 * 1024  # how far deflate looks back
_COUNT: Final = struct.Struct(">B")
_NUMBER: Final = struct.Struct(">q")
HEAD_BYTES: Final = 2 + 255 * 8
"""So many bytes of a packed content are enough for ``bases_of``."""

# What the values of graphs have in common, the most frequent last. It is part of the format and never changes: another
# one would need a mark of its own.
_COMMON: Final = (
    b"langchain_core.documents.base Document page_content langgraph.types Send Command Interrupt resumable "
    b"langchain_core.messages.function FunctionMessage langchain_core.messages.system\xadSystemMessage "
    b"langchain_core.messages.human\xacHumanMessage langchain_core.messages.tool\xabToolMessage"
    b"\xa4tool\xactool_call_id\xa6status\xa7success\xa8artifact\xc0\xa4name\xa4args\xa2id\xaftool_call"
    b"\xadfinish_reason\xaamodel_name\xacinput_tokens\xadoutput_tokens\xactotal_tokens\xb3input_token_details"
    b"\xb4output_token_details\xa9reasoning\xaacache_read\xa8lc_run--\xa5error "
    b'["list",1,["whole",["inline","msgpack",["inline","null",""] "__interrupt__","__pregel_tasks","__no_writes__",'
    b'[["messages",null,1,[["msgpack",1]]],["branch:to:agent",1,0,[["null",0,""]]]] tools [{"messages":["list",'
    b"\x85\xa1v\x04\xa2ts\xd9 2026-01-01T00:00:00.000000+00:00\xb0channel_versions\x83\xa9__start__\x02\xa8messages"
    b"\xadversions_seen\x83\xa9__input__\x80\xa9__start__\x81\xa9__start__\x01\xaebranch:to:agent"
    b"\xb0updated_channels\x92\xaebranch:to:\xa8messages"
    b"\x94\xbalangchain_core.messages.ai\xa9AIMessage\x89\xa7content\xda\xb1additional_kwargs\x80"
    b"\xb1response_metadata\x80\xa4type\xa2ai\xa4name\xc0\xa2id\xc0\xd9$\xaatool_calls\x90\xb2invalid_tool_calls\x90"
    b"\xaeusage_metadata\xc0\xb3model_validate_json"
)
_SEPARATORS: Final = (",", ":")
_FINGERPRINT_BYTES: Final = 15  # 20 characters of base64, without padding


def pack(content: bytes) -> bytes:
    """Write bytes for a column; PostgreSQL itself compresses no row that is shorter than 2 kB."""
    deflated = _deflate(content, _COMMON)
    return _DEFLATED + deflated if len(deflated) < len(content) else _PLAIN + content


def pack_like(content: bytes, number: int, base: bytes) -> bytes:
    """Delta-encode bytes for a column against the content of another row, if that halves them."""
    alone = pack(content)
    delta = b"".join([LIKE_ROWS, _COUNT.pack(1), _NUMBER.pack(number), _deflate(content, base[-_WINDOW:])])
    return delta if 2 * len(delta) < len(alone) else alone


def bases_of(packed: bytes) -> list[int]:
    """The numbers of the rows whose contents are needed to read this one."""
    if packed[:1] != LIKE_ROWS:
        return []
    [count] = _COUNT.unpack_from(packed, 1)
    return [number for (number,) in _NUMBER.iter_unpack(packed[2 : 2 + count * _NUMBER.size])]


def unpack(packed: bytes, bases: Mapping[int, bytes] | None = None) -> bytes:
    """Read what ``pack`` or ``pack_like`` wrote.

    Args:
        bases: the contents of the rows that ``bases_of`` names.
    """
    mark = packed[:1]
    if mark == _DEFLATED:
        return _inflate(packed[1:], _COMMON)
    if mark == LIKE_ROWS:
        numbers = bases_of(packed)
        dictionary = b"".join((bases or {})[number] for number in numbers)[-_WINDOW:]
        return _inflate(packed[2 + len(numbers) * _NUMBER.size :], dictionary)
    return packed[1:]


def _deflate(content: bytes, dictionary: bytes) -> bytes:
    writer = zlib.compressobj(wbits=-zlib.MAX_WBITS, zdict=dictionary)
    return writer.compress(content) + writer.flush()


def _inflate(deflated: bytes, dictionary: bytes) -> bytes:
    reader = zlib.decompressobj(wbits=-zlib.MAX_WBITS, zdict=dictionary)
    return reader.decompress(deflated) + reader.flush()


def pack_blob(blob: Blob) -> bytes:
    """Write one blob, its format before it."""
    kind, content = blob
    return pack(kind.encode() + b"\0" + content)


def unpack_blob(packed: bytes) -> Blob:
    """Read what ``pack_blob`` wrote."""
    kind, _, content = unpack(packed).partition(b"\0")
    return kind.decode(), content


def pack_json(value: Any) -> bytes:
    """Write JSON, with whatever a Python string may hold: nobody reads it in SQL."""
    return pack(json.dumps(value, separators=_SEPARATORS).encode())


def unpack_json(packed: bytes) -> Any:
    """Read what ``pack_json`` wrote."""
    return json.loads(unpack(packed))


def fingerprint(blob: Blob) -> str:
    """What tells a blob from every other: 120 bits of a hash of its format and bytes."""
    kind, content = blob
    made = hashlib.blake2b(kind.encode(), digest_size=_FINGERPRINT_BYTES)
    made.update(b"\0")
    made.update(content)
    return b2a_base64(made.digest(), newline=False).decode()


def size_of(blobs: Iterable[tuple[object, bytes]]) -> int:
    """How many bytes these are."""
    return sum(len(content) for _, content in blobs)
