"""w10: units of work, which somebody opens, does several things in, and commits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from benchmarks.contender import POOL_SIZE, Contender, Operation, Samples, Thread
from benchmarks.workload import SMALL

PAGE = 20
_FURNISHED = slice(100, 140)  # of the messages: others than the first, which a workload begins with

Work = Callable[[Any], Awaitable[Any]]


class Units(Contender):
    """Ways to open a unit, and things to do in one."""

    @abstractmethod
    async def in_begin(self, thread: Thread, work: Work) -> Any:
        """Open a unit, do the work in it, commit it."""

    @abstractmethod
    async def in_run(self, thread: Thread, work: Work) -> Any:
        """Let a unit be opened for the work, which may be done again if it is lost."""

    @abstractmethod
    async def in_bind(self, thread: Thread, work: Work) -> Any:
        """Do the work in the transaction of a host's session."""

    @abstractmethod
    async def write(self, unit: Any, thread: Thread, message: dict[str, Any], state: Any) -> Any:
        """Append a message and save a state."""

    @abstractmethod
    async def page(self, unit: Any, thread: Thread) -> Sequence[Any]:
        """Read the last 20 messages, oldest first; each has it as ``message``."""

    async def both(self, unit: Any, thread: Thread, message: dict[str, Any], state: Any) -> Sequence[Any]:
        """Append a message, save a state, read the page."""
        await self.write(unit, thread, message, state)
        return await self.page(unit, thread)

    @abstractmethod
    async def state(self, thread: Thread) -> Any:
        """Read the latest state, where nothing is measured."""

    async def furnish(self, thread: Thread, kind: str, samples: Samples) -> None:  # noqa: ARG002  # there is one kind
        """Make a thread with some messages and a state."""
        await self.create_thread(thread)
        write = partial(self.write, thread=thread, state=samples.states[SMALL][-1])
        for message in samples.messages[_FURNISHED]:
            await self.in_begin(thread, partial(write, message=message))

    async def verify(self, operation: Operation, key: str, thread: Thread, samples: Samples) -> bool:
        """Look at the page and the state that there are after it, and at the page that it returned."""
        found = await operation(thread)
        page = await self.in_begin(thread, lambda unit: self.page(unit, thread))
        expected, state = samples.messages[_FURNISHED], samples.states[SMALL][-1]
        if not key.endswith("page"):
            expected, state = [*expected, samples.messages[0]], samples.states[SMALL][0]
        pages = [page] if key.endswith("write") else [page, found]
        is_as_written = all([one.message for one in items] == expected[-PAGE:] for items in pages)
        return is_as_written and await self.state(thread) == state


def hosts_sessions(url: str) -> tuple[AsyncEngine, async_sessionmaker[AsyncSession]]:
    """Make an engine and sessions as an application has them."""
    engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_timeout=60)
    return engine, async_sessionmaker(engine, expire_on_commit=False)
