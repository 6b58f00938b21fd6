"""Compressed bytes for columns, and fingerprints of serialised values.

The first byte of compressed bytes is a mark that says how to read the others.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from typing import Any, Final

Blob = tuple[str, bytes]
"""A serialised value: the name of its format, and its bytes."""

_PLAIN: Final = b"\x00"
_DEFLATED: Final = b"\x01"
DELTA: Final = b"\x02"
"""The mark of a delta. A count follows, the numbers of the rows that it rests on, and deflated bytes."""
HEAD_BYTES: Final = 2 + 255 * 8
"""The length of the part of a content that ``bases_of`` needs."""
_HEAD: Final = struct.Struct(">cB")
_NUMBER: Final = struct.Struct(">q")
_WINDOW: Final = 32 * 1024  # how far deflate looks back: it would ignore the rest of a longer dictionary
_FINGERPRINT_BYTES: Final = 15  # 20 characters of base64, without padding

# A preset dictionary: what values of graphs have in common, the most frequent last, where deflate's references to it
# are shortest. 500 steps take 1,016 KB with it and 1,176 without (docs/adr/0013). Stored rows need it to be read, so it
# never changes; another dictionary would need another mark.
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


def compress(content: bytes) -> bytes:
    """Deflate bytes, if that makes them shorter."""
    # PostgreSQL compresses no row below 2 KB, and most rows are shorter.
    deflated = _deflate(content, _COMMON)
    return _DEFLATED + deflated if len(deflated) < len(content) else _PLAIN + content


def compress_delta(content: bytes, number: int, base: bytes) -> bytes:
    """Compress the content of a row as a delta against another row, if that halves it.

    Args:
        content: the content of the new row.
        number: the number of the other row, which must not be a delta itself.
        base: the content of the other row.
    """
    alone = compress(content)
    delta = _HEAD.pack(DELTA, 1) + _NUMBER.pack(number) + _deflate(content, base[-_WINDOW:])
    # A read of a delta costs a second statement, and pruning must keep the base: a small gain is not worth that.
    return delta if 2 * len(delta) < len(alone) else alone


def bases_of(compressed: bytes) -> list[int]:
    """Return the numbers of the rows that a delta rests on; of other bytes, an empty list."""
    if compressed[:1] != DELTA:
        return []
    # One in each row that is written today; earlier builds wrote several (docs/adr/0016).
    _, count = _HEAD.unpack_from(compressed)
    return [number for (number,) in _NUMBER.iter_unpack(compressed[_HEAD.size : _HEAD.size + count * _NUMBER.size])]


def decompress(compressed: bytes, bases: Mapping[int, bytes] | None = None) -> bytes:
    """Return the bytes that ``compress`` or ``compress_delta`` was given.

    Args:
        compressed: the bytes of the column.
        bases: by number, the contents of the rows that ``bases_of`` returns.
    """
    mark = compressed[:1]
    if mark == _DEFLATED:
        return _inflate(compressed[1:], _COMMON)
    if mark == DELTA:
        numbers = bases_of(compressed)
        dictionary = b"".join((bases or {})[number] for number in numbers)[-_WINDOW:]
        return _inflate(compressed[_HEAD.size + len(numbers) * _NUMBER.size :], dictionary)
    return compressed[1:]


def _deflate(content: bytes, dictionary: bytes) -> bytes:
    # Negative: without zlib's header and checksum, which are 10 bytes of each row.
    writer = zlib.compressobj(wbits=-zlib.MAX_WBITS, zdict=dictionary)
    return writer.compress(content) + writer.flush()


def _inflate(deflated: bytes, dictionary: bytes) -> bytes:
    reader = zlib.decompressobj(wbits=-zlib.MAX_WBITS, zdict=dictionary)
    return reader.decompress(deflated) + reader.flush()


def compress_blob(blob: Blob) -> bytes:
    """Compress one blob together with the name of its format."""
    kind, content = blob
    return compress(kind.encode() + b"\0" + content)


def decompress_blob(compressed: bytes) -> Blob:
    """Return the blob that ``compress_blob`` was given."""
    kind, _, content = decompress(compressed).partition(b"\0")
    return kind.decode(), content


def compress_json(value: Any) -> bytes:
    """Compress a value as JSON. The column is bytes, so texts may hold NUL and lone surrogates, unlike in ``jsonb``."""
    return compress(json.dumps(value, separators=(",", ":")).encode())


def decompress_json(compressed: bytes) -> Any:
    """Return the value that ``compress_json`` was given."""
    return json.loads(decompress(compressed))


def fingerprint(blob: Blob) -> str:
    """Return 120 bits of a hash of a blob's format and bytes; equal fingerprints are taken for equal blobs."""
    kind, content = blob
    made = hashlib.blake2b(kind.encode(), digest_size=_FINGERPRINT_BYTES)
    made.update(b"\0")
    made.update(content)
    return b2a_base64(made.digest(), newline=False).decode()


def size_of(blobs: Iterable[tuple[object, bytes]]) -> int:
    """Return the number of bytes of blobs."""
    return sum(len(content) for _, content in blobs)
