"""One store for a whole program, made when it is first asked for: where nobody hands one over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from agent_persistence.concurrency.shielding import start
from agent_persistence.persistence import Persistence

AnyPersistence = Persistence[Any, Any]


class _Shared:
    """The store of one event loop.

    A generator holds it open: the event loop closes those that are left when it ends, as ``asyncio.run`` has it do.
    """

    def __init__(self) -> None:
        self._held = _hold()
        self._opening = start(anext(self._held))

    @property
    def is_of_use(self) -> bool:
        """Whether it is open, or about to be."""
        if not self._opening.done():
            return True
        return not self._opening.cancelled() and not self._opening.exception() and not self._opening.result().closed

    async def opened(self) -> AnyPersistence:
        """Return it once it is open, even if those who asked before were cancelled."""
        return await asyncio.shield(self._opening)

    async def aclose(self) -> None:
        """Close it; what went wrong when it was opened is for those who asked for it."""
        await asyncio.wait([self._opening])
        await self._held.aclose()


async def _hold() -> AsyncGenerator[AnyPersistence, None]:
    async with Persistence[Any, Any].from_env() as persistence:
        yield persistence


_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()
_replacements: list[AnyPersistence] = []


async def shared_persistence() -> AnyPersistence:
    """Return the store of this process and event loop; the first call makes and opens it, from the environment.

    Whoever calls at the same time gets the same one. It closes with its event loop, with ``close_shared_persistence``
    or by its own ``aclose``; the next call makes another one then.

    Raises:
        SettingsError: a variable is missing or wrong.
        PersistenceError: it cannot be opened; the next call tries again.
    """
    if _replacements:
        return _replacements[-1]
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None or not shared.is_of_use:
        shared = _shared[loop] = _Shared()
    return await shared.opened()


async def close_shared_persistence() -> None:
    """Close the store of this event loop, within ``PERSISTENCE_CHECKPOINTER_CLEANUP_TIMEOUT``; if there is one."""
    shared = _shared.pop(asyncio.get_running_loop(), None)
    if shared is not None:
        await shared.aclose()


@contextmanager
def replaced_shared_persistence(persistence: AnyPersistence) -> Iterator[None]:
    """Have ``shared_persistence`` return another store for the length of a block: for tests. It is left open."""
    _replacements.append(persistence)
    try:
        yield
    finally:
        _replacements.remove(persistence)
