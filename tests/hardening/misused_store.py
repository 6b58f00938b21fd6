"""A program that uses a store, and then once more where it must not: what came of that is its output.

Its argument is the misuse, ``loop`` or ``fork``.
"""

from __future__ import annotations

import asyncio
import os
import sys

from agent_persistence import Persistence
from agent_persistence.errors import PersistenceError


async def use(store: Persistence[str, str]) -> str:
    try:
        await store.threads.create(user_id="ada")
    except PersistenceError as error:
        return type(error).__name__
    return "no error"


def in_a_child(store: Persistence[str, str]) -> str:
    """Use the store in a forked child; return what the child said."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        asyncio.events._set_running_loop(None)  # noqa: SLF001 - the child inherits the loop as a running one
        os.write(writer, asyncio.new_event_loop().run_until_complete(use(store)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        return said.read()


async def misuse_by_fork() -> str:
    async with Persistence[str, str].from_env() as store:
        await use(store)
        said = in_a_child(store)
        assert await use(store) == "no error"  # the parent goes on as before
        return said


def misuse_in_another_loop() -> str:
    store, first = Persistence[str, str].from_env(), asyncio.new_event_loop()
    first.run_until_complete(use(store))
    said = asyncio.run(use(store))
    assert first.run_until_complete(use(store)) == "no error"
    first.run_until_complete(store.aclose())
    first.close()
    return said


if __name__ == "__main__":
    print(asyncio.run(misuse_by_fork()) if sys.argv[1] == "fork" else misuse_in_another_loop())
