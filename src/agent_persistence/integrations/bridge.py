"""Calls from any thread and event loop into the event loop of a ``Persistence``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from agent_persistence.concurrency.loop_thread import LoopThread, awaited, result_of
from agent_persistence.errors import ClosedError, SyncInLoopError, WrongLoopError
from agent_persistence.persistence import Persistence
from agent_persistence.shared import shared_persistence

T = TypeVar("T")


class Bridge:
    """Runs coroutines in the event loop of a ``Persistence``; if it is not open yet, sync calls open it in a thread."""

    def __init__(self, persistence: Persistence[Any, Any]) -> None:
        self._persistence = persistence
        self._thread = LoopThread("agent-persistence saver", self._lifespan)
        self._closed = False

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine in the event loop of the ``Persistence``; if it has none yet, in the caller's.

        Raises:
            ForkedError: this is a child of the process that opened it.
            WrongLoopError: that event loop has ended.
            ClosedError: it was closed during the call.
        """
        try:
            is_here = self._persistence.loop in (None, asyncio.get_running_loop())
            submitted = None if is_here else self._submit(work)
        except BaseException:
            work.close()  # else Python warns that it was never awaited
            raise
        return await work if submitted is None else await awaited(submitted, self._persistence.loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop of the ``Persistence`` and block until it is done.

        Raises:
            SyncInLoopError: the calling thread runs that event loop.
            ForkedError: this is a child of the process that opened it.
            WrongLoopError: that event loop has ended.
            ClosedError: ``close`` was called, or the ``Persistence`` was closed during the call.
        """
        try:
            loop = self._persistence.loop
            if loop is not None and loop is _running_loop():
                raise SyncInLoopError
            submitted = self._submit(work)
        except BaseException:
            work.close()
            raise
        return result_of(submitted, self._persistence.loop)

    def open(self) -> None:
        """Open the ``Persistence`` in the thread, unless it is open, so that every event loop may call.

        Raises:
            ForkedError: this is a child of the process that opened it.
            ClosedError: ``close`` was called.
        """
        if self._persistence.loop is None:
            result_of(self._thread.submit(asyncio.sleep, 0))

    def close(self) -> None:
        """Close the ``Persistence`` if a sync call opened it, and end the thread; calls that still run fail."""
        self._closed = True
        self._thread.stop()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        loop = self._persistence.loop
        if loop is None:
            return self._thread.submit(lambda: work)
        # Without this check the future of a call into an ended loop would never be done.
        if not loop.is_running():
            raise ClosedError if self._closed else WrongLoopError
        return asyncio.run_coroutine_threadsafe(work, loop)

    def _lifespan(self) -> Persistence[Any, Any]:
        # Checked in the starting thread, so that no call that races with close() opens the Persistence again.
        if self._closed:
            raise ClosedError
        return self._persistence


async def in_store(
    persistence: Persistence[Any, Any] | None, work: Callable[[Persistence[Any, Any]], Coroutine[Any, Any, T]]
) -> T:
    """Await work with a store, from any event loop.

    Args:
        persistence: the store; ``None`` for the one of ``shared_persistence`` of this event loop.
        work: called with the store.

    Raises:
        ForkedError: this is a child of the process that opened it.
        WrongLoopError: the event loop of the store has ended.
        ClosedError: it was closed during the call.
    """
    if persistence is None:
        return await work(await shared_persistence())
    return await Bridge(persistence).call(work(persistence))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
