"""Calls at the same time share statements: reads of threads, messages, results of tools and items, and puts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest
from integration.repository_testing import counted_statements

from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.errors import DatabaseError, InvalidInputError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, ItemKey, NewItem

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


def an_item(key: Any, **value: Any) -> NewItem:
    return NewItem(namespace=("home",), key=str(key), value=value)


async def values(store: AnyStore, owner: Any, count: int) -> list[Any]:
    keys = [ItemKey(("home",), str(number)) for number in range(count)]
    return [item and item.value for item in await store.items.get_many(keys, user_id=owner)]


async def test_a_crowd_of_puts_costs_a_few_transactions(any_persistence: AnyStore, any_ids: Any) -> None:
    owners = [any_ids.user() for _ in range(20)]
    items = any_persistence.items
    await items.put_many([an_item(0, n="old")], user_id=owners[0])

    async with counted_statements(any_persistence) as sent:
        await asyncio.gather(
            *(
                items.put_many([an_item(number, n=number) for number in range(1 + place % 2)], user_id=owner)
                for place, owner in enumerate(owners)
            )
        )

    expected = [[{"n": 0}, {"n": 1} if place % 2 else None] for place in range(20)]
    assert [await values(any_persistence, owner, 2) for owner in owners] == expected
    assert len(sent) <= 6


async def test_of_puts_of_one_item_that_share_a_statement_the_last_counts(persistence: Store, user_id: str) -> None:
    for _ in range(3):
        await asyncio.gather(*(persistence.items.put_many([an_item(0, n=n)], user_id=user_id) for n in range(20)))

        assert await values(persistence, user_id, 1) == [{"n": 19}]


async def test_an_item_that_another_transaction_has_locked_holds_up_its_own_callers_only(
    persistence: Store, user_id: str
) -> None:
    items = persistence.items
    await items.put_many([an_item(number, n="old") for number in range(12)], user_id=user_id)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.items.put_many([an_item(3, n="of the transaction")])
        waiting = [
            asyncio.ensure_future(items.put_many([an_item(3, n="new")], user_id=user_id)),
            asyncio.ensure_future(items.put_many([an_item(n, n="both") for n in (3, 11)], user_id=user_id)),
        ]
        others = [n for n in range(11) if n != 3]
        async with asyncio.timeout(2):
            await asyncio.gather(*(items.put_many([an_item(n, n="new")], user_id=user_id) for n in others))
        found = await values(persistence, user_id, 12)

        assert [found[n] for n in others] == [{"n": "new"}] * 10
        assert found[11] == {"n": "old"}  # put with the locked one, all or none
        assert not any(task.done() for task in waiting)

    await asyncio.gather(*waiting)
    found = await values(persistence, user_id, 12)
    assert found[3] in ({"n": "new"}, {"n": "both"})
    assert found[11] == {"n": "both"}


async def test_an_item_that_cannot_be_put_fails_its_own_caller(persistence: Store, user_id: str) -> None:
    calls = [persistence.items.put_many([an_item(n, n=n)], user_id=user_id) for n in range(8)]
    bad = persistence.items.put_many([an_item(8, n=float("nan"))], user_id=user_id)

    results = await asyncio.gather(*calls, bad, return_exceptions=True)

    assert results[:8] == [None] * 8
    assert isinstance(results[8], InvalidInputError)
    assert await values(persistence, user_id, 9) == [*({"n": n} for n in range(8)), None]


async def test_searches_by_filters_of_one_shape_share_a_statement_and_nothing_else(
    any_persistence: AnyStore, any_user: Any
) -> None:
    items = any_persistence.items
    kept = [an_item(number, **{"n": number, 'o"{d},\\': {"é": f"x{number}"}}) for number in range(8)]
    await items.put_many(kept, user_id=any_user)
    filters: list[Any] = [
        *({"n": number} for number in range(8)),
        *({'o"{d},\\': {"é": f"x{number}"}} for number in range(8)),
        *({"n": {"$gt": number}} for number in range(8)),
        *({"n": {"$gte": number, "$lt": number + 2}, "none": None} for number in range(8)),
    ]
    numbers = [*([n] for n in range(8)), *([n] for n in range(8))]
    numbers += [[*range(n + 1, 8)] for n in range(8)] + [[n, n + 1][: 8 - n] for n in range(8)]

    async with counted_statements(any_persistence) as sent:
        found = await asyncio.gather(
            *(items.search(("home",), filter=each, user_id=any_user, limit=8) for each in filters)
        )

    assert [sorted(item.value["n"] for item in page) for page in found] == numbers
    assert len(sent) < 24
