"""A program that opens a saver, forks, and prints what each call of the child came to, and what the parent's did.

Its argument is what opened the saver: ``loop``, an event loop in another thread, or ``call``, a sync call.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from checkpoints import checkpoint_with, config_of

from agent_persistence import Persistence
from agent_persistence.integrations.langgraph import PersistenceSaver

CONFIG = config_of("forked")
NAMED = config_of("forked", checkpoint_id="1")
SYNC: dict[str, Callable[[PersistenceSaver], Any]] = {
    "get_tuple": lambda saver: saver.get_tuple(CONFIG),
    "list": lambda saver: list(saver.list(CONFIG)),
    "put": lambda saver: saver.put(CONFIG, checkpoint_with({"n": 1}), {}, {"n": 1}),
    "put_writes": lambda saver: saver.put_writes(NAMED, [("n", 1)], "task"),
    "delete_thread": lambda saver: saver.delete_thread("forked"),
    "delete_for_runs": lambda saver: saver.delete_for_runs(["run"]),
    "copy_thread": lambda saver: saver.copy_thread("forked", "other"),
    "prune": lambda saver: saver.prune(["forked"]),
    "get_delta_channel_history": lambda saver: saver.get_delta_channel_history(config=CONFIG, channels=["n"]),
}


async def listed(saver: PersistenceSaver) -> Any:
    return [one async for one in saver.alist(CONFIG)]


async def begun(store: Persistence[str, str]) -> Any:
    async with store.begin(user_id="ada") as uow:
        return await uow.threads.create()


async def streamed(store: Persistence[str, str]) -> Any:
    return [chunk async for chunk in store.states.open_stream("forked", user_id="ada")]


ASYNC: dict[str, Callable[[PersistenceSaver, Persistence[str, str]], Awaitable[Any]]] = {
    "aget_tuple": lambda saver, _: saver.aget_tuple(CONFIG),
    "alist": lambda saver, _: listed(saver),
    "aput": lambda saver, _: saver.aput(CONFIG, checkpoint_with({"n": 1}), {}, {"n": 1}),
    "aput_writes": lambda saver, _: saver.aput_writes(NAMED, [("n", 1)], "task"),
    "adelete_thread": lambda saver, _: saver.adelete_thread("forked"),
    "adelete_for_runs": lambda saver, _: saver.adelete_for_runs(["run"]),
    "acopy_thread": lambda saver, _: saver.acopy_thread("forked", "other"),
    "aprune": lambda saver, _: saver.aprune(["forked"]),
    "aget_delta_channel_history": lambda saver, _: saver.aget_delta_channel_history(config=CONFIG, channels=["n"]),
    "threads.create": lambda _, store: store.threads.create(user_id="ada"),
    "threads.get": lambda _, store: store.threads.get("forked", user_id="ada"),
    "states.get": lambda _, store: store.states.get("forked", user_id="ada"),
    "states.put": lambda _, store: store.states.put("forked", {}, user_id="ada"),
    "states.open_stream": lambda _, store: streamed(store),
    "messages.page": lambda _, store: store.messages.page("forked", user_id="ada"),
    "entities.get_thread": lambda _, store: store.entities.get_thread("forked", user_id="ada"),
    "begin": lambda _, store: begun(store),
    "run": lambda _, store: store.run(lambda uow: uow.threads.get("forked"), user_id="ada"),
    "purge": lambda _, store: store.purge(keep_last=1),
    "health": lambda _, store: store.health(),
    "check": lambda _, store: store.check(),
    "aclose": lambda _, store: store.aclose(),
}


def outcome(call: Callable[[], Any]) -> str:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - all of them are told
        return type(error).__name__
    return "no error"


async def within_seconds(call: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(5):
        await call()


def said_by_child(saver: PersistenceSaver, store: Persistence[str, str]) -> list[str]:
    def closed(call: Callable[[PersistenceSaver], Any]) -> str:
        found: list[str] = []
        # In a thread, so that a call that hangs is told too.
        thread = threading.Thread(target=lambda: found.append(outcome(lambda: call(saver))), daemon=True)
        thread.start()
        thread.join(5)
        return found[0] if found else "hangs"

    said = [f"{name}: {closed(call)}" for name, call in SYNC.items()]
    for name, start in ASYNC.items():
        said.append(f"{name}: {outcome(lambda start=start: asyncio.run(within_seconds(lambda: start(saver, store))))}")  # type: ignore[misc]  # mypy infers no lambda with a default
    return said


def forked(saver: PersistenceSaver, store: Persistence[str, str]) -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, "\n".join(said_by_child(saver, store)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        print(said.read())
    print("parent:", outcome(lambda: saver.get_tuple(CONFIG)))


def main(opened_by: str) -> None:
    store = Persistence[str, str].from_env()
    saver = PersistenceSaver(store, user_id="ada")
    if opened_by == "call":
        with saver:
            saver.get_tuple(CONFIG)
            forked(saver, store)
        return

    async def open_and_fork() -> None:
        async with store:
            await asyncio.to_thread(forked, saver, store)

    asyncio.run(open_and_fork())


if __name__ == "__main__":
    main(sys.argv[1])
