"""Threads, messages, pages and results of tools that are read at the same time share statements."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from integration.repository_testing import counted_statements

from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.errors import DatabaseError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER

AnyStore = Persistence[Any, Any]
Store = Persistence[str, str]


async def make_thread(store: AnyStore, user_id: Any, number: int) -> Any:
    """Make a thread whose contents tell its number."""
    thread = await store.threads.create(user_id=user_id, name=f"thread {number}")
    said = [{"role": "user", "content": f"{number}.{place}"} for place in range(5)]
    await store.messages.append_many(thread.thread_id, said, user_id=user_id)
    await store.tool_results.record(thread.thread_id, "call", {"number": number}, user_id=user_id)
    return thread.thread_id


async def test_each_caller_gets_its_own_rows_in_their_order(
    any_persistence: AnyStore, any_user: Any, any_ids: Any
) -> None:
    store, other = any_persistence, any_ids.user()
    threads = [await make_thread(store, any_user if number % 3 else other, number) for number in range(9)]
    owners = [any_user if number % 3 else other for number in range(9)]
    pages = [await store.messages.page(thread, user_id=ANY_USER) for thread in threads]

    async def read(number: int, owner: Any) -> list[Any]:
        thread, last = threads[number], pages[number].items[-1]
        found, page, message, result = await asyncio.gather(
            store.threads.get(thread, user_id=owner),
            store.messages.page(thread, user_id=owner, limit=1 + number % 4),
            store.messages.get(thread, last.message_id, user_id=owner),
            store.tool_results.get(thread, "call", user_id=owner),
        )
        return [found and found.name, [one.text for one in page], message and message.text, result]

    mine = await asyncio.gather(*(read(number, owners[number]) for number in range(9)))
    of_others = await asyncio.gather(*(read(number, any_ids.user()) for number in range(9)))
    of_anybody = await asyncio.gather(*(read(number, ANY_USER) for number in range(9)))

    texts = [[f"{number}.{place}" for place in range(5)] for number in range(9)]
    expected = [
        [f"thread {number}", texts[number][-1 - number % 4 :], f"{number}.4", {"number": number}] for number in range(9)
    ]
    assert mine == expected
    assert of_anybody == expected
    assert of_others == [[None, [], None, None]] * 9


async def test_lists_that_are_read_at_once_are_each_in_order(any_persistence: AnyStore, any_ids: Any) -> None:
    users = [any_ids.user() for _ in range(4)]
    made = {user: [await any_persistence.threads.create(user_id=user) for _ in range(5)] for user in users}

    async def first(user: Any) -> list[Any]:
        page = await any_persistence.threads.page(user_id=user, limit=3)
        rest = await any_persistence.threads.page(user_id=user, after=page.after)
        return [thread.thread_id for thread in (*page, *rest)]

    assert await asyncio.gather(*map(first, users)) == [
        [thread.thread_id for thread in reversed(made[user])] for user in users
    ]


async def test_a_crowd_of_readers_costs_a_few_statements(persistence: Store, user_id: str) -> None:
    threads = [await make_thread(persistence, user_id, number) for number in range(20)]

    def read_all() -> Awaitable[list[Any]]:
        return asyncio.gather(*(persistence.threads.require(thread, user_id=user_id) for thread in threads))

    async with counted_statements(persistence) as sent:
        found = await read_all()

    assert [thread.thread_id for thread in found] == threads
    assert len(sent) <= 5


async def test_an_error_of_the_database_meets_the_caller_whose_row_it_is(
    persistence: Store, user_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = [await make_thread(persistence, user_id, number) for number in range(8)]
    fetch = PinnedConnection.fetch

    async def refuse_the_third(self: PinnedConnection, statement: Any, **values: Any) -> list[Any]:
        if threads[2] in values["thread_id"]:  # one id, or an array
            raise DatabaseError("the row is damaged")
        return await fetch(self, statement, **values)

    monkeypatch.setattr(PinnedConnection, "fetch", refuse_the_third)
    calls = [persistence.threads.require(thread, user_id=user_id) for thread in threads]
    found = await asyncio.gather(*calls, return_exceptions=True)

    assert [number for number, one in enumerate(found) if isinstance(one, DatabaseError)] == [2]
    assert [one.name for one in found if not isinstance(one, BaseException)] == [
        f"thread {number}" for number in range(8) if number != 2
    ]
