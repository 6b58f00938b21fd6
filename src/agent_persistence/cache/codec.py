"""Cached states as bytes: a checked envelope around JSON. Decoding names and creates no class.

    V00000000000000000042{"format":1,"thread":"…","owner":"…","times":[…],"length":…,"crc32":…,"plain":…}⏎data⏎meta

The version comes first and has a fixed width, so that Redis can compare versions as text. Version 0, with nothing after
the envelope, means that the thread has no state.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any, Final

import orjson

from agent_persistence.encoding.exact_json import decode_json, is_plain_json
from agent_persistence.records import SavedState, StateRecord

FORMAT: Final = 1
VALUE: Final = b"V"
HEAD_BYTES: Final = 21
# The reads of one MGET all wait for its largest value, within the time limit of a single call.
MAX_BYTES: Final = 1024 * 1024


class UnreadableValueError(Exception):
    """A cached value is damaged, in another format, or of another key; it counts as a miss."""


def encode_state(thread_id: Any, user_id: Any, state: SavedState | None) -> bytes | None:
    """Encode a latest state, or the fact that there is none; return ``None`` if it is too large for the cache."""
    # Not compressed: with zstd, 32 readers of 4 KB reach 0.9 of the rate. Exact JSON has no line ends.
    body = b"" if state is None else b"%b\n%b" % (state.data, state.meta)
    if len(body) > MAX_BYTES:
        return None
    envelope = {
        "format": FORMAT,
        "thread": str(thread_id),
        "owner": str(user_id),
        "times": [] if state is None else [state.created_at, state.updated_at],
        "length": len(body),
        "crc32": zlib.crc32(body),
        # Determined once here, and not by every reader.
        "plain": is_plain_json(body),
    }
    return b"%b%020d%b\n%b" % (VALUE, 0 if state is None else state.version, orjson.dumps(envelope), body)


def version_of(head: bytes) -> int:
    """Return the version in the first ``HEAD_BYTES`` of a cached value.

    Raises:
        UnreadableValueError: there is none.
    """
    digits = head[len(VALUE) : HEAD_BYTES]
    if len(head) < HEAD_BYTES or not digits.isdigit():
        raise UnreadableValueError
    return int(digits)


def decode_state(value: bytes, thread_id: Any, user_id: Any) -> StateRecord[Any] | None:
    """Decode a cached state; ``None`` for a thread without one.

    Raises:
        UnreadableValueError: it was not written for this thread and owner, or is damaged.
    """
    try:
        version = version_of(value)
        end = value.index(b"\n")
        envelope = orjson.loads(value[HEAD_BYTES:end])
        body = memoryview(value)[end + 1 :]  # of a large value, no copy
        _check(envelope, thread_id, user_id, body)
        if version == 0:
            return None
        # Exact JSON has no line ends.
        data, meta = body[: value.rindex(b"\n") - end - 1], value[value.rindex(b"\n") + 1 :]
        load = orjson.loads if envelope.get("plain") else _decode
        created_at, updated_at = map(datetime.fromisoformat, envelope["times"])
        return StateRecord(thread_id, version, load(data), load(meta), created_at, updated_at)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableValueError from error


def _decode(json: bytes | memoryview) -> Any:
    return decode_json(bytes(json))


def _check(envelope: dict[str, Any], thread_id: Any, user_id: Any, body: memoryview) -> None:
    # The key alone is not trusted: another program can copy a value to the key of another user.
    is_ours = envelope["format"] == FORMAT and envelope["length"] == len(body)
    is_theirs = envelope["thread"] == str(thread_id) and envelope["owner"] == str(user_id)
    if not is_ours or not is_theirs or envelope["crc32"] != zlib.crc32(body):
        raise ValueError("not the value of this key")
