"""Keys of cached states."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote, unquote

from agent_persistence.errors import InvalidInputError
from agent_persistence.ids import IdTypes
from agent_persistence.records import TouchedState

# The characters that ``quote`` leaves unchanged; to match them is ten times as fast as to quote.
_NEEDS_NO_QUOTES: Final = re.compile("[A-Za-z0-9_.~-]+")


def state_key(namespace: str, thread_id: object, user_id: object) -> bytes:
    """Return the key of a thread's latest state: ``{namespace}:state_cache:{thread_id}:{user_id}``.

    Ids are percent-encoded, so that ``("a:b", "c")`` and ``("a", "b:c")`` have different keys.
    """
    return f"{_prefix(namespace)}{_quoted(str(thread_id))}:{_quoted(str(user_id))}".encode()


def parse_state_key(namespace: str, key: bytes, id_types: IdTypes[Any, Any]) -> TouchedState | None:
    """Return the state that a key is for; ``None`` if it is not a key of this namespace and these id types."""
    thread_id, _, user_id = key.decode(errors="replace").removeprefix(_prefix(namespace)).partition(":")
    try:
        state = TouchedState(
            id_types.id.parse(unquote(thread_id), "thread_id"), id_types.user.parse(unquote(user_id), "user_id")
        )
    except InvalidInputError:
        return None
    # Only the canonical spelling of an id is in a key; " 1" parses as an int as well.
    return state if state_key(namespace, *state) == key else None


def keys_pattern(namespace: str) -> bytes:
    """Return the pattern for ``SCAN`` that matches all keys of a namespace."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", _prefix(namespace)).encode() + b"*"


def _quoted(text: str) -> str:
    return text if _NEEDS_NO_QUOTES.fullmatch(text) else quote(text, safe="")


def _prefix(namespace: str) -> str:
    return f"{namespace}:state_cache:"
