"""One store for a whole program, opened from the environment when it is first used."""

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

    A generator holds it open, because ``asyncio.run`` closes remaining generators at the end of the event loop.
    """

    def __init__(self) -> None:
        self._held = _hold()
        self._opening = start(anext(self._held))

    @property
    def is_of_use(self) -> bool:
        """Whether it is open, or being opened."""
        if not self._opening.done():
            return True
        return not self._opening.cancelled() and not self._opening.exception() and not self._opening.result().closed

    async def opened(self) -> AnyPersistence:
        """Return the store once it is open; a cancelled caller does not cancel the opening."""
        return await asyncio.shield(self._opening)

    async def aclose(self) -> None:
        """Close the store; an error of its opening was raised to those who wanted it."""
        await asyncio.wait([self._opening])
        await self._held.aclose()


async def _hold() -> AsyncGenerator[AnyPersistence, None]:
    async with Persistence[Any, Any].from_env() as persistence:
        yield persistence


# A store for each event loop, because connections belong to one. Weak, so that no closed loop is kept alive.
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = WeakKeyDictionary()
_replacements: list[AnyPersistence] = []


async def shared_persistence() -> AnyPersistence:
    """Return the store of this process and event loop; the first call opens it, with settings from the environment.

    Concurrent callers get the same store. It is closed with its event loop, by ``close_shared_persistence`` or by its
    ``aclose``; the next call opens another one.

    Raises:
        SettingsError: a variable is missing or wrong.
        PersistenceError: the store cannot be opened; the next call tries again.
    """
    if _replacements:
        return _replacements[-1]
    loop = asyncio.get_running_loop()
    shared = _shared.get(loop)
    if shared is None or not shared.is_of_use:
        shared = _shared[loop] = _Shared()
    return await shared.opened()


async def close_shared_persistence() -> None:
    """Close the store of this event loop, if there is one, within ``PERSISTENCE_CHECKPOINTER_CLEANUP_TIMEOUT``."""
    shared = _shared.pop(asyncio.get_running_loop(), None)
    if shared is not None:
        await shared.aclose()


@contextmanager
def replaced_shared_persistence(persistence: AnyPersistence) -> Iterator[None]:
    """Let ``shared_persistence`` return another store within a block, for tests. The block does not close it.

    Args:
        persistence: an open store.
    """
    _replacements.append(persistence)
    try:
        yield
    finally:
        _replacements.remove(persistence)
