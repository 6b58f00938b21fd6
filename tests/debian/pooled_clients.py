"""The clients of one process: the whole API, round after round, until standard input ends. Every answer is checked.

Its argument is a thread that all processes share. Each round adds a message to it, and 1 to the number that is its
state. The last line of output is the number of rounds.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

from agent_persistence import Persistence
from agent_persistence.errors import StateConflictError

CLIENTS = 4
SHARED_USER = "everybody"

Store = Persistence[str, str]


def said(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


async def use_threads(store: Store, user: str) -> str:
    thread = await store.threads.create(user_id=user, name="100% new", meta={"tags": ["a", "b"]})
    assert await store.threads.require(thread.thread_id, user_id=user) == thread
    assert (await store.threads.page(user_id=user, search="100% N", meta={"tags": ["b"]})).items == (thread,)
    archived = await store.threads.archive(thread.thread_id, user_id=user)
    assert (await store.threads.page(user_id=user, archived=True)).items == (archived,)
    await store.threads.unarchive(thread.thread_id, user_id=user)
    renamed = await store.threads.update(thread.thread_id, user_id=user, name="renamed")
    assert (await store.threads.page(user_id=user)).items == (renamed,)
    return thread.thread_id


async def use_messages(store: Store, user: str, thread_id: str) -> None:
    first, second = await store.messages.append_many(thread_id, [said("one"), said("two")], user_id=user)
    third = await store.messages.append(thread_id, said("three"), user_id=user)
    newest = await store.messages.page(thread_id, user_id=user, limit=2)
    older = await store.messages.page(thread_id, user_id=user, before=newest.before)
    assert (older.items, newest.items) == ((first,), (second, third))
    assert (await store.messages.page(thread_id, user_id=user, search="THREE")).items == (third,)
    changed = await store.messages.update(thread_id, third.message_id, user_id=user, message=said("drei"))
    assert await store.messages.require(thread_id, third.message_id, user_id=user) == changed
    assert await store.messages.delete(thread_id, second.message_id, user_id=user)
    assert await store.messages.get(thread_id, second.message_id, user_id=user) is None


async def use_states(store: Store, user: str, thread_id: str) -> None:
    assert await store.states.get(thread_id, user_id=user) is None
    first = await store.states.put(thread_id, {"step": 1}, user_id=user)
    second = await store.states.put(thread_id, {"step": 2}, user_id=user, expected_version=first.version)
    assert await store.states.get(thread_id, user_id=user) == second
    assert await store.states.get(thread_id, user_id=user, fresh=True) == second
    assert await store.states.get_version(thread_id, first.version, user_id=user) == first
    assert (await store.states.page(thread_id, user_id=user)).items == (second, first)
    assert await store.states.prune(thread_id, user_id=user, keep_last=1) == 1
    assert await store.states.clear(thread_id, user_id=user) == 1


async def use_streams(store: Store, user: str, thread_id: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield 1_100_000 * b"a"

    saved = await store.states.put_stream(thread_id, source(), user_id=user)
    assert await store.states.require(thread_id, user_id=user) == saved
    pieces = [piece async for piece in store.states.open_stream(thread_id, user_id=user)]
    assert b"".join(pieces) == 1_100_000 * b"a"
    assert await store.states.clear(thread_id, user_id=user) == 1


async def use_a_unit_of_work(store: Store, user: str, thread_id: str) -> None:
    async with store.begin(user_id=user) as uow:
        message = await uow.messages.append(thread_id, said("together"))
        state = await uow.states.put(thread_id, [message.message_id])
        savepoint = await uow.session.begin_nested()
        await uow.threads.update(thread_id, name="never")
        await savepoint.rollback()
    assert await store.states.get(thread_id, user_id=user) == state
    assert (await store.threads.require(thread_id, user_id=user)).name == "renamed"
    assert await store.threads.delete(thread_id, user_id=user)
    assert await store.states.get(thread_id, user_id=user) is None


async def count(store: Store, shared_thread: str) -> None:
    await store.messages.append(shared_thread, said("counted"), user_id=SHARED_USER)
    while True:
        latest = await store.states.require(shared_thread, user_id=SHARED_USER)
        try:
            await store.states.put(shared_thread, latest.data + 1, user_id=SHARED_USER, expected_version=latest.version)
        except StateConflictError:
            continue
        return


async def work(store: Store, user: str, shared_thread: str, end: asyncio.Task[bytes]) -> int:
    rounds = 0
    while rounds < 2 or not end.done():
        thread_id = await use_threads(store, user)
        await use_messages(store, user, thread_id)
        await use_states(store, user, thread_id)
        await use_streams(store, user, thread_id)
        await use_a_unit_of_work(store, user, thread_id)
        await count(store, shared_thread)
        assert (await store.health()).database == "up"
        rounds += 1
    await store.purge(keep_last=1000)
    return rounds


async def end_of_input() -> bytes:
    reader = asyncio.StreamReader()  # not in a thread, which would keep a process alive whose clients have failed
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return await reader.read()


async def main(process: str, shared_thread: str) -> None:
    end = asyncio.create_task(end_of_input())
    async with Persistence[str, str].from_env() as store:
        print("started", flush=True)
        clients = [work(store, f"{process}-{number}", shared_thread, end) for number in range(CLIENTS)]
        print(sum(await asyncio.gather(*clients)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
