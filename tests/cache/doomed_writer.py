"""Processes to be killed: one stands still at a moment of its parent's choice, one saves states until its end."""

from __future__ import annotations

import asyncio
import json
import sys
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

from agent_persistence.cache import StateCache
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings


def stand_still(moment: str) -> None:
    """Report and wait for the end right after the quarantine was acknowledged, or right before the publish."""
    before_commit, after_commit = StateCache.before_commit, StateCache.after_commit

    async def wait_for_the_end() -> None:
        print("standing still", flush=True)
        await asyncio.Event().wait()

    async def quarantine(self: StateCache, ticket: Any) -> None:
        await before_commit(self, ticket)
        if moment == "before COMMIT":
            await wait_for_the_end()

    async def publish(self: StateCache, ticket: Any) -> None:
        if moment == "after COMMIT":
            await wait_for_the_end()
        await after_commit(self, ticket)

    StateCache.before_commit = quarantine  # type: ignore[method-assign]  # to be there at that moment
    StateCache.after_commit = publish  # type: ignore[method-assign]  # to be there at that moment


async def main(moment: str, thread_id: str, user_id: str, values: dict[str, Any]) -> None:
    async with Persistence[str, str](PersistenceSettings(_env_file=None, **values)) as store:
        stand_still(moment)
        await store.states.put(thread_id, "new", user_id=user_id)


def write_until_killed(values: dict[str, Any], thread_id: str, user_id: str, told: Connection) -> None:
    """Save 0, 1, 2 ... and tell of each when it is acknowledged."""

    async def write() -> None:
        async with Persistence[str, str](PersistenceSettings(_env_file=None, **values)) as store:
            for number in count():
                await store.states.put(thread_id, number, user_id=user_id)
                told.send(number)

    asyncio.run(write())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4], json.loads(sys.argv[4])))
