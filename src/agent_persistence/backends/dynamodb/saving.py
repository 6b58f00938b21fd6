"""A state that is ready to be saved, and what becomes of its thread."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from agent_persistence.backends.dynamodb.bodies import PART_BYTES, split
from agent_persistence.backends.dynamodb.items import State, Thread, in_seconds
from agent_persistence.encoding.timestamps import MICROSECONDS

_EARLIER: Final = 31


@dataclass
class NewState:
    """A state to be saved, in one attempt or several.

    Attributes:
        body: what `pack` made of it.
        expected: the version that it is to be saved over, if it matters.
        lifetime: in seconds; ``None`` for ever.
        token: by which a save knows that an earlier attempt of it was done.
        written_to: the states among which its parts are, or some of them.
        is_written: whether all of them are there.
    """

    thread_id: str
    body: bytes = field(repr=False)
    expected: int | None
    lifetime: float | None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    written_to: str | None = None
    is_written: bool = False

    @cached_property
    def parts(self) -> list[bytes]:
        """The parts, if one item cannot hold it."""
        return split(self.body) if len(self.body) > PART_BYTES else []

    def thread(self, before: Thread | None, live: Thread | None, now: int, *, keep: int) -> Thread:
        """Return the thread as it is once this is saved.

        Args:
            before: what is in the table.
            live: the same, unless it has expired or is being deleted.
            keep: how many versions; 0 for all.
        """
        # Clocks differ, and go back: a thread's own times and versions only grow.
        updated = now if before is None else max(now, before.updated + 1, before.version + 1)
        version = live.version + 1 if live else updated
        oldest = live.oldest if live else version
        expires = None if self.lifetime is None else updated + int(self.lifetime * MICROSECONDS)
        removed = in_seconds(expires)
        if live is not None and removed is not None:
            removed = None if live.removed is None else max(removed, live.removed)
        return Thread(
            version=version,
            oldest=max(oldest, version - keep + 1) if keep else oldest,
            created=live.created if live else updated,
            updated=updated,
            states=live.states if live else uuid.uuid4().hex,
            token=self.token,
            earlier=live.tokens[:_EARLIER] if live else (),
            expires=expires,
            removed=removed,
        )

    def state(self, thread: Thread) -> State:
        """Return the latest state of that thread."""
        return State(
            version=thread.version,
            created=thread.updated,
            expires=thread.expires,
            body=b"" if self.parts else self.body,
            parts=len(self.parts),
            token=self.token,
        )
