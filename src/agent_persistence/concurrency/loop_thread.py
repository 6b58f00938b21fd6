"""An event loop in a thread of its own: there from the first call on, gone with ``stop``."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for whoever asks, in whatever thread, with a running loop or without.

    Args:
        life: what is entered in the loop when it begins, and left when it ends.
    """

    def __init__(self, name: str, life: Callable[[], AbstractAsyncContextManager[None]] = nullcontext) -> None:
        self._name = name
        self._life = life
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: Future[None] = Future()
        self._stop = asyncio.Event()
        self._pid = 0

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this loop."""
        return self._thread is not None and threading.current_thread() is self._thread

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Run a coroutine, and start the thread for it if need be; what a stop leaves undone is cancelled."""
        with self._lock:
            loop = self._loop if self.is_running else None
            return asyncio.run_coroutine_threadsafe(make(), loop or self._start())

    def stop(self) -> None:
        """End the loop with all that still runs in it, and wait for the thread; nobody starts another meanwhile."""
        with self._lock:
            if self._thread is None or self._loop is None or not self.is_running:
                return
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None
            self._ended.result()

    @property
    def is_running(self) -> bool:
        """Whether it was started, in this process, and not stopped."""
        return self._thread is not None and self._pid == os.getpid()

    def _start(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._ended, self._stop, self._pid = Future(), asyncio.Event(), os.getpid()
        # A daemon: a program that ends without release() is not kept from it.
        self._thread = threading.Thread(target=self._run, args=(started, self._ended), name=self._name, daemon=True)
        self._thread.start()
        self._loop = started.result()
        return self._loop

    def _run(self, started: Future[asyncio.AbstractEventLoop], ended: Future[None]) -> None:
        try:
            asyncio.run(self._until_stopped(started))
        except BaseException as error:  # noqa: BLE001 - whoever stops it is told
            ended.set_exception(error)
        else:
            ended.set_result(None)

    async def _until_stopped(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async with self._life():
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()
