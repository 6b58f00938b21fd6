"""The states that this process saved last: what the next ones are compared with."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from datetime import datetime
from typing import Final, NamedTuple

from agent_persistence.encoding.state_patches import Cut

MOST_BYTES: Final = 64 * 1024 * 1024


class Origin(NamedTuple):
    """What a saved state rests on.

    Attributes:
        size: bytes of the state as JSON; of a patched one at most so many.
        whole: bytes of the version at the beginning, which is kept whole.
        patches: what reading the patches since then costs, in bytes.
    """

    size: int
    whole: int
    patches: int


class RecentState(NamedTuple):
    """A version that was saved here.

    Attributes:
        mark: the transaction that wrote its row, and where that lies; another one, once somebody changed it.
    """

    version: int
    mark: str
    created_at: datetime
    cut: Cut
    origin: Origin


class RecentStates:
    """The last state of each thread, as far as they fit into 64 MB; whoever has not saved for longest goes first.

    Nothing here is ever read instead of the database: a version that is not there as it was is no base for another.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[Hashable, RecentState] = OrderedDict()
        self._bytes = 0

    def get(self, thread_id: Hashable) -> RecentState | None:
        """Return what was saved last, or ``None``."""
        return self._states.get(thread_id)

    def put(self, thread_id: Hashable, state: RecentState) -> None:
        """Remember a state instead of the thread's former one."""
        self.forget(thread_id)
        self._states[thread_id] = state
        self._bytes += state.cut.size
        while self._bytes > MOST_BYTES:
            _, oldest = self._states.popitem(last=False)
            self._bytes -= oldest.cut.size

    def forget(self, thread_id: Hashable) -> None:
        """Forget a thread."""
        if (former := self._states.pop(thread_id, None)) is not None:
            self._bytes -= former.cut.size
