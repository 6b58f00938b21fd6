"""Saves and deletions in progress: their data over several attempts."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from agent_persistence.backends.base import StateToSave
from agent_persistence.backends.dynamodb.bodies import PART_BYTES, split
from agent_persistence.backends.dynamodb.items import State, Thread, in_seconds

# Tokens kept beside that of the last save: a retry recognises its save unless more saves than this came between.
_EARLIER: Final = 31


def _new_token() -> str:
    return uuid.uuid4().hex


@dataclass(repr=False)  # a repr would show a user's state
class StateWrite:
    """A save in progress.

    Attributes:
        new: the checked arguments.
        body: the state, encoded by ``encode_body``.
        token: by which an attempt recognises that an earlier one has saved the state.
        written_to: the name of the states under which some parts, or all, were written; ``None`` if none were.
        is_written: whether all parts were written.
    """

    new: StateToSave
    body: bytes
    token: str = field(default_factory=_new_token)
    written_to: str | None = None
    is_written: bool = False

    @cached_property
    def parts(self) -> list[bytes]:
        """The parts of the body; empty if it fits into one item."""
        return split(self.body) if len(self.body) > PART_BYTES else []

    def thread(self, before: Thread | None, live: Thread | None, now: int, *, keep: int) -> Thread:
        """Return the thread as it is after the save.

        Args:
            before: the thread in the table.
            live: the same; ``None`` if it has expired or is being deleted.
            now: microseconds since 1970.
            keep: the number of versions to keep; 0 for all.
        """
        # Writers' clocks differ, and may go back: within a thread, times and versions only grow.
        updated = now if before is None else max(now, before.updated + 1, before.version + 1)
        version = live.version + 1 if live else updated
        oldest = live.oldest if live else version
        expires = self.new.expiry(updated)
        removed = in_seconds(expires)
        if live is not None and removed is not None:
            # Earlier states may expire later, and DynamoDB must not remove the thread that names them before.
            removed = None if live.removed is None else max(removed, live.removed)
        return Thread(
            version=version,
            oldest=max(oldest, version - keep + 1) if keep else oldest,
            created=live.created if live else updated,
            updated=updated,
            states=live.states if live else _new_token(),
            token=self.token,
            earlier=live.tokens[:_EARLIER] if live else (),
            expires=expires,
            removed=removed,
        )

    def state(self, thread: Thread) -> State:
        """Return the state of this save, as the latest one of a thread."""
        return State(
            version=thread.version,
            created=thread.updated,
            expires=thread.expires,
            body=b"" if self.parts else self.body,
            parts=len(self.parts),
            token=self.token,
        )


@dataclass
class Deletion:
    """A deletion in progress.

    Attributes:
        token: by which an attempt recognises that an earlier one has marked the thread.
        has_marked: whether an attempt has marked the thread, so that it existed.
    """

    thread_id: str
    token: str = field(default_factory=_new_token)
    has_marked: bool = False
