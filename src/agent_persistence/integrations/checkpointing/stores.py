"""Routes the calls of a checkpointer to the event loop that its connections belong to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeVar

from agent_persistence.cache.named_values import LocalValues
from agent_persistence.concurrency.loop_thread import LoopThread, awaited, result_of
from agent_persistence.errors import MisuseError
from agent_persistence.integrations.checkpointing.arguments import Arguments
from agent_persistence.integrations.checkpointing.lazy_store import LazyStore, store_over
from agent_persistence.integrations.checkpointing.store import CheckpointStore

P = ParamSpec("P")
T = TypeVar("T")


class Stores:
    """The stores of a checkpointer: one over the host's resources, one in the checkpointer's thread.

    Connections belong to an event loop, and the frameworks start a new loop for each synchronous run. Connections that
    are made of addresses therefore live in a thread with an event loop, which serves every loop and every thread.
    Resources that the host has opened are used in the host's event loop.

    Attributes:
        id_types: the id types of the database.

    Raises:
        InvalidInputError: the arguments name no database, or two.
    """

    def __init__(self, arguments: Arguments) -> None:
        arguments.check()
        persistence, local = arguments.persistence, LocalValues()
        self.id_types = arguments.id_types
        self._arguments = arguments
        self._given = None if persistence is None else store_over(persistence, local, ttl_seconds=arguments.ttl_seconds)
        self._host_store = arguments.host_store(local)
        self._thread_store: LazyStore | None = None
        self._thread: LoopThread | None = None
        if (make_thread_store := arguments.thread_store(local)) is not None:
            lifespan = partial(self._thread_lifespan, make_thread_store)
            self._thread = LoopThread("agent-persistence checkpointer", lifespan)

    async def run(
        self, operation: Callable[Concatenate[CheckpointStore, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Return ``await operation(store, *args, **kwargs)``, with the store of this event loop or in the thread.

        Raises:
            ClosedError: ``release`` ended the thread during the operation.
        """
        # Checked first: a synchronous call runs here in the thread, where the host's connections must not be used.
        if self._thread_store is not None and self._required_thread.is_current:
            return await operation(await self._thread_store.open(), *args, **kwargs)
        if self._given is not None:
            return await operation(self._given, *args, **kwargs)
        if self._host_store is not None:
            return await operation(await self._host_store.open(), *args, **kwargs)
        return await awaited(self._required_thread.submit(partial(self.run, operation, *args, **kwargs)))

    def block(self, method: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``method`` in the thread and wait; an event loop that runs in the calling thread is blocked until then.

        Raises:
            MisuseError: the checkpointer has only resources of the host's event loop, or this is its thread.
            ClosedError: ``release`` ended the thread during the call.
        """
        thread = self._required_thread
        if thread.is_current:
            raise MisuseError("a synchronous method in the checkpointer's thread would wait for itself")
        return result_of(thread.submit(method, *args, **kwargs))

    async def release(self) -> None:
        """Close the connections that the checkpointer opened, and the host's too with ``release_resources``."""
        if self._host_store is not None:
            await self._host_store.aclose()
        if self._thread is not None:
            # stop() blocks until the thread has closed its connections; this event loop goes on.
            await asyncio.to_thread(self._thread.stop)
        if self._arguments.release_resources:
            # Last: the stores above use these resources while they close.
            await self._release_given()

    def release_blocking(self) -> None:
        """Close the connections of the checkpointer's thread.

        Raises:
            MisuseError: connections are open that belong to the host's event loop, or the host's are to be closed.
        """
        if (self._host_store is not None and self._host_store.is_open) or self._arguments.release_resources:
            raise MisuseError("connections that belong to your event loop must be closed there: await arelease()")
        if self._thread is not None:
            self._thread.stop()

    @property
    def _required_thread(self) -> LoopThread:
        if self._thread is None:
            raise MisuseError(
                "this checkpointer has only resources of your event loop: await the async method, or make it with "
                "postgres_dsn (and redis_url, if a Redis client is given)"
            )
        return self._thread

    @asynccontextmanager
    async def _thread_lifespan(self, make_store: Callable[[], LazyStore]) -> AsyncIterator[None]:
        # A new store for each start: in a forked child, the old one holds connections of the parent.
        async with aclosing(make_store()) as self._thread_store:
            yield

    async def _release_given(self) -> None:
        given, client = self._arguments, self._arguments.client
        if given.persistence is not None:
            await given.persistence.aclose()
        if client is not None:
            await client.aclose(close_connection_pool=True)
        if given.pg_pool is not None:
            await given.pg_pool.close()
