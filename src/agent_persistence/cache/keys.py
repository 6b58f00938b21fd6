"""The names of cache keys."""

from __future__ import annotations

from urllib.parse import quote


def state_key(namespace: str, thread_id: object, user_id: object) -> bytes:
    """Return the key of a thread's latest state: ``{namespace}:state_cache:{thread_id}:{user_id}``.

    Each id is percent-encoded, so that ``("a:b", "c")`` and ``("a", "b:c")`` do not meet in one key.
    """
    return f"{namespace}:state_cache:{quote(str(thread_id), safe='')}:{quote(str(user_id), safe='')}".encode()
