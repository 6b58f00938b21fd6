"""A checkpointer's memory of the threads that were found."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from agent_persistence.integrations.langgraph.addresses import ThreadKey

_THREADS_REMEMBERED: Final = 10_000


class KnownThreads:
    """Remembers whether threads existed, so that a late write does not create a deleted thread again."""

    def __init__(self) -> None:
        self._existed: OrderedDict[ThreadKey, bool] = OrderedDict()

    def note(self, key: ThreadKey, *, exists: bool) -> None:
        """Remember whether a thread exists; of 10,000 threads, the least recently noted is forgotten."""
        self._existed[key] = exists
        self._existed.move_to_end(key)
        if len(self._existed) > _THREADS_REMEMBERED:
            self._existed.popitem(last=False)

    def may_start(self, key: ThreadKey, *, otherwise: bool) -> bool:
        """Return whether a save may create the thread: not if it existed before; ``otherwise`` if that is unknown."""
        existed = self._existed.get(key)
        return otherwise if existed is None else not existed
