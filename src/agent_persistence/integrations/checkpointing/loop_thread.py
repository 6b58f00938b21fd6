"""An event loop in a thread of its own: there from the first call on, gone with ``stop``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for whoever asks, in whatever thread, with a running loop or without."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._pid = 0

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this loop."""
        return self._thread is not None and threading.current_thread() is self._thread

    @property
    def is_running(self) -> bool:
        """Whether it was started, in this process, and not stopped."""
        return self._thread is not None and self._pid == os.getpid()

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine, and start the thread for it if need be."""
        with self._lock:
            loop = self._loop if self.is_running else None
            return asyncio.run_coroutine_threadsafe(make(), loop or self._start())

    def stop(self) -> None:
        """End the loop with all that still runs in it, and wait for the thread."""
        with self._lock:
            thread, self._thread = (self._thread if self.is_running else None), None
            if thread is not None and self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
        if thread is not None:
            thread.join()

    def _start(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._stop, self._pid = asyncio.Event(), os.getpid()

        async def until_stopped() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()

        # A daemon: a program that ends without release() is not kept from it.
        self._thread = threading.Thread(target=asyncio.run, args=(until_stopped(),), name=self._name, daemon=True)
        self._thread.start()
        self._loop = started.result()
        return self._loop
