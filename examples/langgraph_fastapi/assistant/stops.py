"""Stopping an answer from elsewhere: another tab, another device, a supervisor.

The run may be in any process, so the request is left in the database, and the run looks for it every second: one
statement, which the runs of a process share.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from agent_persistence import ItemKey, NewItem, Persistence, PersistenceError

_REQUESTS: Final = ("assistant", "stops")
_LOOK_EVERY: Final = 1.0
_KEPT: Final = 60.0  # for a run that ends before it looks; the next run of the thread deletes it


async def request_stop(persistence: Persistence[str, str], thread_id: str, user_id: str) -> None:
    """Ask the run of a thread to stop, if there is one."""
    await persistence.threads.require(thread_id, user_id=user_id)
    request = NewItem(namespace=_REQUESTS, key=thread_id, value={}, ttl=_KEPT)
    await persistence.items.put_many([request], user_id=user_id)


@asynccontextmanager
async def stop_of(persistence: Persistence[str, str], thread_id: str, user_id: str) -> AsyncIterator[asyncio.Event]:
    """Yield an event that is set when somebody asks the run to stop that has claimed the thread."""
    stop, place = asyncio.Event(), [ItemKey(_REQUESTS, thread_id)]

    async def look() -> None:
        while not stop.is_set():
            await asyncio.sleep(_LOOK_EVERY)
            with suppress(PersistenceError):  # the database is away: the answer goes on, and so does this
                if (await persistence.items.get_many(place, user_id=user_id))[0] is not None:
                    stop.set()

    await persistence.items.delete_many(place, user_id=user_id)  # one that came too late for the run before
    looking = asyncio.create_task(look())
    try:
        yield stop
    finally:
        looking.cancel()


async def until(stop: asyncio.Event, parts: AsyncGenerator[Any]) -> AsyncIterator[Any]:
    """Yield the parts of a stream, but none after ``stop`` is set, also while the model is silent."""
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while True:
            part = asyncio.ensure_future(anext(parts))
            try:
                await asyncio.wait({part, stopping}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not part.done():  # stopped, or the client has gone: with the step ends its call of the model
                    part.cancel()
                    await asyncio.wait({part})
            if stopping.done():
                return
            try:
                yield part.result()
            except StopAsyncIteration:
                return
    finally:
        stopping.cancel()
