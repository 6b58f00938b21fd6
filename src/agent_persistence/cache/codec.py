"""A cached state as bytes and back: a checked envelope around JSON. No class is named, none is made.

    V 00000000000000000042 {"format":1,"thread":"…","owner":"…","length":…,"crc32":…} ⏎ {"data":…,"meta":…,…}

The version stands first in a fixed width, so that Redis can compare versions as text. Version 0 with the body ``null``
says that the thread has no state.
"""

from __future__ import annotations

import zlib
from datetime import datetime
from typing import Any, Final

import orjson

from agent_persistence.json_values import decode_json
from agent_persistence.records import SavedState, StateRecord

FORMAT: Final = 1
VALUE: Final = b"V"
_VERSION_DIGITS: Final = 20
_HEAD: Final = len(VALUE) + _VERSION_DIGITS
_NOTHING: Final = b"null"
MAX_BYTES: Final = 1024 * 1024


class UnreadableValue(Exception):
    """A cached value is damaged, of another format, or somebody else's: a miss."""


def encode_state(thread_id: Any, user_id: Any, state: SavedState | None) -> bytes | None:
    """Write a latest state, or that there is none; ``None`` where it is too large to be cached."""
    body = _NOTHING if state is None else _body(state)
    if len(body) > MAX_BYTES:
        return None
    envelope = {
        "format": FORMAT,
        "thread": str(thread_id),
        "owner": str(user_id),
        "length": len(body),
        "crc32": zlib.crc32(body),
    }
    version = 0 if state is None else state.version
    return b"%b%020d%b\n%b" % (VALUE, version, orjson.dumps(envelope), body)


def decode_state(value: bytes, thread_id: Any, user_id: Any) -> StateRecord[Any] | None:
    """Read a cached state, or ``None`` for a thread without one.

    Raises:
        UnreadableValue: it is not what was written for this thread and owner.
    """
    try:
        envelope, _, body = value[_HEAD:].partition(b"\n")
        _check(orjson.loads(envelope), thread_id, user_id, body)
        if body == _NOTHING:
            return None
        state = decode_json(body)
        created_at, updated_at = map(datetime.fromisoformat, (state["created_at"], state["updated_at"]))
        version = int(value[len(VALUE) : _HEAD])
        return StateRecord(thread_id, version, state["data"], state["meta"], created_at, updated_at)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UnreadableValue from error


def version_text(version: int) -> bytes:
    """The version as it stands at the head of a value."""
    return b"%020d" % version


def _body(state: SavedState) -> bytes:
    times = orjson.dumps({"created_at": state.created_at, "updated_at": state.updated_at})
    return b'{"data":%b,"meta":%b,%b' % (state.data, state.meta, times[1:])


def _check(envelope: dict[str, Any], thread_id: Any, user_id: Any, body: bytes) -> None:
    expected = {"format": FORMAT, "thread": str(thread_id), "owner": str(user_id), "length": len(body)}
    if any(envelope[name] != value for name, value in expected.items()) or envelope["crc32"] != zlib.crc32(body):
        raise ValueError("not the value of this key")
