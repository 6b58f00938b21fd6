"""Where a checkpointer's calls run: in the caller's event loop, or in one of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from agent_persistence.cache.named_values import LocalValues
from agent_persistence.concurrency.loop_thread import LoopThread
from agent_persistence.errors import ClosedError, MisuseError
from agent_persistence.integrations.checkpointing.arguments import Arguments
from agent_persistence.integrations.checkpointing.opening import Opening, store_over
from agent_persistence.integrations.checkpointing.store import CheckpointStore

T = TypeVar("T")


class Stores:
    """The open stores of a checkpointer.

    Connections belong to an event loop, and frameworks start a new one for each run. So what is made of addresses lives
    in a thread of our own, for all loops and for none. What the host has opened lives where the host opened it.

    Attributes:
        id_types: the id types of the database.
    """

    def __init__(self, arguments: Arguments) -> None:
        arguments.check()
        self._arguments = arguments
        self._local = LocalValues()
        here, apart = arguments.here(self._local), arguments.apart(self._local)
        self._here = None if here is None else Opening(here)
        self._source_apart = apart
        self._apart: Opening | None = None
        self._thread = LoopThread("agent-persistence checkpointer", self._life_apart)
        given, ttl_seconds = arguments.persistence, arguments.ttl_seconds
        self._given = None if given is None else store_over(given, self._local, ttl_seconds=ttl_seconds)
        self.id_types = arguments.id_types

    async def run(self, operation: Callable[[CheckpointStore], Awaitable[T]]) -> T:
        """Run an operation on the store that belongs to this place."""
        if self._apart is not None and self._thread.is_current:
            return await operation(await self._apart.store())
        if self._given is not None:
            return await operation(self._given)
        if self._here is not None:
            return await operation(await self._here.store())
        return await _awaited(self._thread.submit(lambda: self.run(operation)))

    def block(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in our thread, and wait: only the calling thread is blocked, whatever runs in it.

        Raises:
            MisuseError: only what belongs to the host's event loop was given.
            ClosedError: it was released meanwhile.
        """
        if self._source_apart is None:
            raise MisuseError(
                "this checkpointer has only what belongs to your event loop: await the async method, or make it "
                "with postgres_dsn (and redis_url, where a Redis client is given)"
            )
        if self._thread.is_current:
            raise MisuseError("a synchronous method was called in the thread that would have to do its work")
        try:
            return self._thread.submit(make).result()
        except CancelledError:
            raise ClosedError from None

    async def release(self) -> None:
        """Close what was opened here, and what the host wants closed."""
        if self._here is not None:
            await self._here.close()
        await asyncio.to_thread(self._thread.stop)
        if self._arguments.release_resources:
            await self._release_given()

    def release_blocking(self) -> None:
        """Do the same without an event loop.

        Raises:
            MisuseError: something is open that belongs to the host's event loop.
        """
        if (self._here is not None and self._here.is_open) or self._arguments.release_resources:
            raise MisuseError("what was opened in your event loop has to be closed there: await arelease()")
        self._thread.stop()

    @asynccontextmanager
    async def _life_apart(self) -> AsyncIterator[None]:
        """What our thread has open, from its start to its end."""
        opening = self._apart = None if self._source_apart is None else Opening(self._source_apart)
        try:
            yield
        finally:
            if opening is not None:
                await opening.close()

    async def _release_given(self) -> None:
        given, client = self._arguments, self._arguments.client
        if given.persistence is not None:
            await given.persistence.aclose()
        if client is not None:
            await client.aclose(close_connection_pool=True)
        if given.pg_pool is not None:
            await given.pg_pool.close()


async def _awaited(future: Future[T]) -> T:
    """Await what runs in our thread.

    Raises:
        ClosedError: it was ended there; a caller who was not cancelled must not be told so.
    """
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ClosedError from None
