"""Calls from any thread and any event loop into the one that a ``Persistence`` belongs to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from agent_persistence.errors import ClosedError, SyncInLoopError, WrongLoopError
from agent_persistence.persistence import Persistence

T = TypeVar("T")


class Bridge:
    """Runs coroutines where a ``Persistence`` is at home; where it is not open yet, in a thread of its own."""

    def __init__(self, persistence: Persistence[Any, Any]) -> None:
        self._persistence = persistence
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._own_loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work, in its own loop wherever the caller is."""
        home = self._persistence.loop
        if home is None or home is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(self._submit(work, home))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work, from any thread but that of its own loop.

        Raises:
            SyncInLoopError: this thread runs the event loop that the work needs.
            WrongLoopError: the event loop has ended.
        """
        try:
            home = self._persistence.loop or self._start()
            if home is _running_loop():
                raise SyncInLoopError
        except BaseException:
            work.close()
            raise
        return self._submit(work, home).result()

    def close(self) -> None:
        """Close what was opened here, and end the thread."""
        with self._lock:
            thread, loop, self._closed = self._thread, self._own_loop, True
            self._thread = None
        if thread is not None and loop is not None:
            asyncio.run_coroutine_threadsafe(self._persistence.aclose(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def _submit(self, work: Coroutine[Any, Any, T], home: asyncio.AbstractEventLoop) -> Future[T]:
        if not home.is_running():
            work.close()
            raise WrongLoopError
        return asyncio.run_coroutine_threadsafe(work, home)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise ClosedError
            if self._own_loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_run, args=(loop,), name="agent-persistence saver", daemon=True)
                self._thread.start()
                try:
                    asyncio.run_coroutine_threadsafe(self._persistence.__aenter__(), loop).result()
                except BaseException:
                    loop.call_soon_threadsafe(loop.stop)
                    self._thread.join()
                    self._thread = None
                    raise
                self._own_loop = loop
            return self._own_loop


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
