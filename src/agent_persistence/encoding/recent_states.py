"""The states that this process saved last: the next ones are compared to them, and they need not be sent again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

from agent_persistence.encoding.state_patches import Snapshot
from agent_persistence.telemetry.counts import SavedStates

# For all threads. Digests instead of the bytes take less memory, and five times the CPU for a state of 500 KB.
MOST_BYTES: Final = 64 * 1024 * 1024
_STATE_BYTES: Final = 1000  # that a state takes beside its keys and values; measured with Python 3.11


class Origin(NamedTuple):
    """The sizes of the versions on which a saved state rests.

    Attributes:
        size: the size of the state as JSON, in bytes; an upper bound for a patched one.
        whole: the size of the last version that is stored whole, in bytes.
        patches: the cost of reading the patches since then, in bytes.
    """

    size: int
    whole: int
    patches: int


class RecentState(NamedTuple):
    """A version that this process saved.

    Attributes:
        version: its version.
        mark: the mark of its row, which the row has for as long as its contents are not changed.
        snapshot: its snapshot.
        origin: the sizes of the versions on which it rests.
    """

    version: int
    mark: int
    snapshot: Snapshot
    origin: Origin


class RecentStates:
    """The last saved state of each thread, up to 64 MB; the least recently saved is evicted first.

    None is used unproved: the statement that saves a change, or reads a latest state, compares version and mark with
    those of the row.

    Args:
        saved: counts all states that are saved, remembered or not.

    Attributes:
        saved: the same.
        memory: the bytes that the states take.
    """

    def __init__(self, saved: SavedStates | None = None) -> None:
        self.saved = saved or SavedStates()
        self._states: OrderedDict[Hashable, RecentState] = OrderedDict()
        self.memory = 0

    def get(self, thread_id: Hashable) -> RecentState | None:
        """Return the last saved state of a thread, or ``None``."""
        return self._states.get(thread_id)

    def put(self, thread_id: Hashable, state: RecentState) -> None:
        """Remember a state in place of the thread's previous one, unless it alone exceeds the limit."""
        self.forget(thread_id)
        if _memory(state) > MOST_BYTES:
            return
        self._states[thread_id] = state
        self.memory += _memory(state)
        while self.memory > MOST_BYTES:
            _, oldest = self._states.popitem(last=False)
            self.memory -= _memory(oldest)

    def forget(self, thread_id: Hashable) -> None:
        """Forget the state of a thread."""
        if (former := self._states.pop(thread_id, None)) is not None:
            self.memory -= _memory(former)


def _memory(state: RecentState) -> int:
    return state.snapshot.memory + _STATE_BYTES
