"""An event loop in a daemon thread, for callers in other event loops or in none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future, wait
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final, ParamSpec, TypeVar

from agent_persistence.concurrency.process_lock import ProcessLock
from agent_persistence.errors import ClosedError, WrongLoopError

P = ParamSpec("P")
T = TypeVar("T")

_LOOK_SECONDS: Final = 1.0  # how often a caller looks whether the loop runs: if not, its future is never done


class LoopThread:
    """An event loop in a daemon thread: started by the first ``submit``, ended by ``stop``, started again if needed.

    Every thread may submit to it, with a running event loop or without. A forked child process starts its own thread.

    Args:
        name: the name of the thread.
        lifespan: makes a context manager that the loop enters before any work, and leaves when it is stopped. An error
            on entering is raised by the ``submit`` that started the loop, one on leaving by ``stop``.
    """

    def __init__(self, name: str, lifespan: Callable[[], AbstractAsyncContextManager[object]] = nullcontext) -> None:
        self._name = name
        self._lifespan = lifespan
        self._lock = ProcessLock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: Future[None] = Future()
        self._stop = asyncio.Event()
        self._pid = 0

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in this thread; waiting for a submitted call would deadlock there."""
        return self._thread is not None and threading.current_thread() is self._thread

    @property
    def is_running(self) -> bool:
        """Whether the thread was started in this process and not stopped."""
        # Threads do not survive a fork: in the child, the parent's thread is an object without a thread.
        return self._thread is not None and self._pid == os.getpid()

    def submit(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Schedule ``function(*args, **kwargs)`` in the loop, which is started if it does not run.

        Returns:
            The future of the result. ``stop`` cancels it if it is not done by then.
        """
        # Under the lock, no stop() can end the loop before the coroutine is scheduled, so its future always ends.
        with self._lock:
            loop = self._loop if self._loop is not None and self.is_running else self._start()
            return asyncio.run_coroutine_threadsafe(function(*args, **kwargs), loop)

    def stop(self) -> None:
        """End the loop, cancel the work that still runs in it, and wait for the thread; do nothing if it does not run.

        Calls of ``submit`` wait until the thread has ended, and then start another one.
        """
        with self._lock:
            if self._thread is None or self._loop is None or not self.is_running:
                return
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = None
            self._ended.result()

    def _start(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._ended, self._stop, self._pid = Future(), asyncio.Event(), os.getpid()
        # A daemon thread: it must not keep a program alive that ends without calling stop().
        self._thread = threading.Thread(target=self._run, args=(started, self._ended), name=self._name, daemon=True)
        self._thread.start()
        # Blocks, also a caller that runs in an event loop: for as long as entering the lifespan takes, once.
        try:
            self._loop = started.result()
        except BaseException:
            self._thread = None
            raise
        return self._loop

    def _run(self, started: Future[asyncio.AbstractEventLoop], ended: Future[None]) -> None:
        try:
            asyncio.run(self._until_stopped(started))
        except BaseException as error:  # noqa: BLE001 - raised by submit() or stop()
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    async def _until_stopped(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async with self._lifespan():
            started.set_result(asyncio.get_running_loop())
            await self._stop.wait()


def result_of(future: Future[T], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """Block until a future is done that work in an event loop sets.

    Args:
        future: the future.
        loop: the event loop, if it can end without cancelling the work.

    Raises:
        ClosedError: the work was cancelled, as it is when a loop is ended properly.
        WrongLoopError: the loop ended otherwise.
    """
    look = _Looks(loop)
    while not wait([future], _LOOK_SECONDS).done:
        look()
    try:
        return future.result()
    except CancelledError:
        raise ClosedError from None


async def awaited(future: Future[T], loop: asyncio.AbstractEventLoop | None = None) -> T:
    """Await a future that work in another event loop sets; if the caller is cancelled, the work is.

    See ``result_of`` for the arguments and errors.
    """
    here, look = asyncio.wrap_future(future), _Looks(loop)
    try:
        while not (await asyncio.wait([here], timeout=_LOOK_SECONDS))[0]:
            look()
    except asyncio.CancelledError:
        here.cancel()  # asyncio.wait() leaves it
        raise
    try:
        return here.result()
    except asyncio.CancelledError:
        raise ClosedError from None


class _Looks:
    """Looks whether an event loop runs. One that is ended stands still between steps, so two looks decide."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._stood_still = False

    def __call__(self) -> None:
        stands_still = self._loop is not None and not self._loop.is_running()
        if stands_still and self._stood_still:
            raise WrongLoopError
        self._stood_still = stands_still
