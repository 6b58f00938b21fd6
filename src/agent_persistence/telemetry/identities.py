"""How ids are shown in spans and in the log."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from agent_persistence.frozen import frozen

Shown = Literal["plain", "hashed", "none"]


def hashed(value: Any) -> str:
    """Return a short hash of an id, the same one in every process.

    Whoever has a list of ids can compute theirs, so it is a pseudonym and no secret.
    """
    return hashlib.blake2b(str(value).encode(), digest_size=8).hexdigest()


@frozen
class Identities:
    """Shows ids.

    Attributes:
        shown: what becomes of a thread's id. The owner's is never plain.
    """

    shown: Shown = "hashed"

    def thread(self, thread_id: Any) -> str | None:
        """Return what to show for a thread; ``None`` for nothing."""
        if thread_id is None or self.shown == "none":
            return None
        return str(thread_id) if self.shown == "plain" else hashed(thread_id)

    @property
    def thread_attribute(self) -> str:
        """The attribute of spans for it: the conventional one, unless its value would match that of no other span."""
        return "gen_ai.conversation.id" if self.shown == "plain" else "agent_persistence.thread.hash"

    def owner(self, user_id: Any) -> str | None:
        """Return what to show for an owner; ``None`` for nothing."""
        return None if user_id is None or self.shown == "none" else hashed(user_id)
