"""w12-contract: the checkpointer contract's calls, on each backend of this package."""

from __future__ import annotations

import itertools
from typing import Any

from agent_persistence import Checkpointer
from benchmarks.contender import Contender, Operation, Samples, Thread
from benchmarks.workload import SMALL

OWNER = "user-1"
_PAGE = 20


class Backend(Contender):
    """Calls a checkpointer, all of whose threads are one owner's."""

    checkpointer: Checkpointer

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()

    async def close(self) -> None:
        """Close it."""
        await self.checkpointer.aclose()

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # all are alike
        """Save a state."""
        await self.save(thread, samples.states[SMALL][-1])

    async def save(self, thread: Thread, state: Any) -> Any:
        """``save_state``."""
        return await self.checkpointer.save_state(thread.id, state)

    async def load(self, thread: Thread) -> Any:
        """``load_state``."""
        found = await self.checkpointer.load_state(thread.id)
        return found and found.state

    async def list_own(self, thread: Thread) -> Any:  # noqa: ARG002  # the owner's
        """``list_threads``: the last 20."""
        return [one.thread_id for one in (await self.checkpointer.list_threads(limit=_PAGE)).items]

    async def delete(self, thread: Thread, state: Any) -> Any:
        """``save_state`` of a new thread, ``delete_thread``."""
        other = f"{thread.id}-{next(self.numbers)}"
        await self.checkpointer.save_state(other, state)
        return await self.checkpointer.delete_thread(other)

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:
        """Compare what it returned, or else what can be read after it, with what was written."""
        before = await self.list_own(thread)
        found = await operation(thread)
        after, state = await self.list_own(thread), await self.load(thread)
        match key.rpartition("-")[2]:
            case "save":
                return bool(state == samples.states[SMALL][0])
            case "load":
                return bool(found == state == samples.states[SMALL][-1])
            case "list":
                return bool(found == before and len(found) == _PAGE and found[0] == thread.id)
            case _:
                return bool(found is True and after == before)
