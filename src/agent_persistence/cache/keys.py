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


def value_key(namespace: str, group: str, name: str) -> bytes:
    """Return the key of a named value; every text is allowed, lone surrogates too."""
    return f"{namespace}:values:{_quoted(group)}:{_quoted(name)}".encode()


def draft_name(thread_id: object, owner: object | None) -> tuple[str, str]:
    """Return the name of the value that holds a thread's draft.

    Args:
        owner: the user whose draft it is; ``None`` where users are not isolated.
    """
    return "drafts", ":".join(_quoted(str(part)) for part in (thread_id, owner) if part is not None)


def draft_keys(namespace: str, thread_id: object, user_id: object) -> list[bytes]:
    """Return the keys of the drafts that a thread's owner can read."""
    return [value_key(namespace, *draft_name(thread_id, owner)) for owner in (user_id, None)]


def keys_pattern(namespace: str) -> bytes:
    """Return the pattern for ``SCAN`` that matches all keys of a namespace."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", _prefix(namespace)).encode() + b"*"


def _quoted(text: str) -> str:
    return text if _NEEDS_NO_QUOTES.fullmatch(text) else quote(text, safe="", errors="surrogatepass")


def _prefix(namespace: str) -> str:
    return f"{namespace}:state_cache:"
