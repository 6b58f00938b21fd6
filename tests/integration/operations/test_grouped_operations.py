"""What is asked for at the same time shares statements, and is as if each had been asked for alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest
from connections import all_are_back
from integration.repository_testing import counted_statements, until_somebody_waits_for_a_lock

from agent_persistence.errors import IdempotencyConflictError, ThreadNotFoundError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST
from agent_persistence.settings import PersistenceSettings

AnyStore = Persistence[Any, Any]
Store = Persistence[str, str]
SettingsFor = Callable[..., Awaitable[PersistenceSettings]]


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


async def make_threads(store: AnyStore, user_id: Any, count: int) -> list[Any]:
    made = await asyncio.gather(*(store.threads.create(user_id=user_id) for _ in range(count)))
    return [thread.thread_id for thread in made]


async def at_once(*calls: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


async def texts(store: AnyStore, thread_id: Any, user_id: Any) -> list[str]:
    return [message.text for message in await store.messages.page(thread_id, user_id=user_id, limit=1000)]


# --- each gets what it would get alone ---


async def test_messages_that_are_appended_at_once_stand_in_the_order_of_the_calls(
    any_persistence: AnyStore, any_user: Any
) -> None:
    threads = await make_threads(any_persistence, any_user, 4)
    calls = [(thread, str(number)) for number in range(10) for thread in threads]

    made = await at_once(
        *(any_persistence.messages.append(thread, said(text), user_id=any_user) for thread, text in calls)
    )

    for thread in threads:
        page = await any_persistence.messages.page(thread, user_id=any_user)
        assert [message.text for message in page] == [str(number) for number in range(10)]
        assert list(page) == [one for one, (of, _) in zip(made, calls, strict=True) if of == thread]


@pytest.mark.parametrize("seed", range(2))
async def test_appends_of_every_kind_stand_in_the_order_of_the_calls(
    any_persistence: AnyStore, any_user: Any, any_ids: Any, seed: int
) -> None:
    threads, random = await make_threads(any_persistence, any_user, 2), Random(seed)
    append, append_many = any_persistence.messages.append, any_persistence.messages.append_many
    expected: dict[Any, list[str]] = {thread: [] for thread in threads}
    calls: list[Awaitable[Any]] = []
    # The first round is the sequence of a chat that appends a whole history between two messages.
    kinds = ["one", "copied", "one", *random.choices(["one", "own id", "few", "copied", "mixed", "any user"], k=20)]
    for number, kind in enumerate(kinds):
        thread, owner = threads[0] if number < 3 else random.choice(threads), any_user
        new = [said(f"{number}.{place}") for place in range({"copied": 250, "few": 3, "mixed": 3}.get(kind, 1))]
        expected[thread] += [message["content"] for message in new]
        match kind:
            case "own id":
                calls.append(append(thread, new[0], user_id=owner, message_id=any_ids.message()))
            case "mixed":
                mixed = [new[0], NewMessage(message=new[1], message_id=any_ids.message()), new[2]]
                calls.append(append_many(thread, mixed, user_id=owner))
            case "any user":
                calls.append(append(thread, new[0], user_id=ANY_USER))
            case "one":
                calls.append(append(thread, new[0], user_id=owner))
            case _:
                calls.append(append_many(thread, new, user_id=owner))

    made = await at_once(*calls)

    assert [one for one in made if isinstance(one, Exception)] == []
    for thread in threads:
        stored: list[str] = []
        after: str | None = BEFORE_THE_FIRST
        while after is not None:
            page = await any_persistence.messages.page(thread, user_id=any_user, limit=1000, after=after)
            stored += [message.text for message in page]
            after = page.after if len(page) == 1000 else None
        assert stored == expected[thread]


async def test_states_that_are_put_at_once_are_versions_in_the_order_of_the_calls(
    any_persistence: AnyStore, any_user: Any
) -> None:
    threads = await make_threads(any_persistence, any_user, 4)
    calls = [(thread, {"step": number}) for number in range(10) for thread in threads]

    made = await at_once(*(any_persistence.states.put(thread, data, user_id=any_user) for thread, data in calls))
    latest = await at_once(*(any_persistence.states.get(thread, user_id=any_user) for thread in threads))
    fresh = await at_once(*(any_persistence.states.get(thread, user_id=any_user, fresh=True) for thread in threads))

    assert [state.data for state in made] == [data for _, data in calls]
    assert latest == fresh == made[-4:]
    for thread in threads:
        page = await any_persistence.states.page(thread, user_id=any_user)
        assert list(page)[::-1] == [one for one, (of, _) in zip(made, calls, strict=True) if of == thread]


async def test_what_is_read_at_once_is_each_ones_own(any_persistence: AnyStore, any_user: Any) -> None:
    threads = await make_threads(any_persistence, any_user, 70)
    for thread in threads[::2]:
        await any_persistence.states.put(thread, str(thread), user_id=any_user)

    found = await at_once(*(any_persistence.states.get(one, user_id=any_user, fresh=True) for one in threads))

    assert [state and state.data for state in found[::2]] == [str(thread) for thread in threads[::2]]
    assert found[1::2] == [None] * 35


# --- the bad ones fail, and nobody else ---


async def test_who_asks_for_what_is_not_there_fails_alone(
    any_persistence: AnyStore, any_ids: Any, any_user: Any
) -> None:
    [mine], [theirs] = [await make_threads(any_persistence, user, 1) for user in (any_user, any_ids.user())]
    messages, states = any_persistence.messages, any_persistence.states

    appended = await at_once(
        *(messages.append(thread, said("x"), user_id=any_user) for thread in (theirs, mine, any_ids.thread(), mine))
    )
    put = await at_once(
        *(states.put(thread, "x", user_id=any_user) for thread in (theirs, mine, any_ids.thread(), mine))
    )

    for results in (appended, put):
        assert [type(result) is ThreadNotFoundError for result in results] == [True, False, True, False]
    assert await texts(any_persistence, mine, any_user) == ["x", "x"]
    assert len(await states.page(mine, user_id=any_user)) == 2


@pytest.mark.parametrize("owner_first", [True, False])
async def test_a_thread_is_written_by_its_owner_only_whoever_else_asks_at_the_same_time(
    persistence: Store, user_id: str, owner_first: bool
) -> None:
    [thread_id] = await make_threads(persistence, user_id, 1)
    callers = [user_id, "somebody else"] if owner_first else ["somebody else", user_id]

    appended = await at_once(
        *(persistence.messages.append(thread_id, said(caller), user_id=caller) for caller in callers)
    )
    put = await at_once(*(persistence.states.put(thread_id, caller, user_id=caller) for caller in callers))
    read = await at_once(*(persistence.states.get(thread_id, user_id=caller, fresh=True) for caller in callers))

    mine = callers.index(user_id)
    for results in (appended, put):
        assert isinstance(results[1 - mine], ThreadNotFoundError)
    assert (appended[mine].text, put[mine].data) == (user_id, user_id)
    assert (read[mine].data, read[1 - mine]) == (user_id, None)
    assert await texts(persistence, thread_id, user_id) == [user_id]


async def test_a_message_that_two_send_at_once_is_there_once(any_persistence: AnyStore, any_user: Any) -> None:
    [thread_id] = await make_threads(any_persistence, any_user, 1)
    message_id = (await make_threads(any_persistence, any_user, 1))[0]  # an id of the right kind
    append = any_persistence.messages.append

    first, again, other = await at_once(
        append(thread_id, said("a"), user_id=any_user, message_id=message_id),
        append(thread_id, said("a"), user_id=any_user, message_id=message_id),
        append(thread_id, said("b"), user_id=any_user, message_id=message_id),
    )

    assert first == again
    assert isinstance(other, IdempotencyConflictError)
    assert await texts(any_persistence, thread_id, any_user) == ["a"]


async def test_a_batch_of_messages_is_appended_whole_or_not_at_all_and_the_others_are(
    persistence: Store, user_id: str
) -> None:
    [thread_id] = await make_threads(persistence, user_id, 1)
    await persistence.messages.append(thread_id, said("there"), user_id=user_id, message_id="there")
    half: Sequence[NewMessage[str]] = [
        NewMessage(message=said("new"), message_id="new"),
        NewMessage(message=said("other"), message_id="there"),
    ]

    before, conflict, after = await at_once(
        persistence.messages.append(thread_id, said("before"), user_id=user_id),
        persistence.messages.append_many(thread_id, half, user_id=user_id),
        persistence.messages.append(thread_id, said("after"), user_id=user_id),
    )

    assert isinstance(conflict, IdempotencyConflictError)
    assert (before.text, after.text) == ("before", "after")
    assert sorted(await texts(persistence, thread_id, user_id)) == ["after", "before", "there"]


# --- nobody waits for somebody else's lock ---


async def test_a_thread_that_is_locked_holds_up_its_own_writers_only_and_they_keep_their_order(
    persistence: Store, user_id: str
) -> None:
    locked, free = await make_threads(persistence, user_id, 2)

    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.update(locked, name="locked")
        waiting = [
            asyncio.create_task(persistence.messages.append(locked, said("first"), user_id=user_id)),
            asyncio.create_task(persistence.messages.append(locked, said("second"), user_id=user_id)),
            asyncio.create_task(persistence.states.put(locked, "state", user_id=user_id)),
        ]
        await until_somebody_waits_for_a_lock(persistence)
        await persistence.messages.append(free, said("free"), user_id=user_id)
        await persistence.states.put(free, "free", user_id=user_id)
        assert not any(task.done() for task in waiting)

    await asyncio.gather(*waiting)
    assert await texts(persistence, locked, user_id) == ["first", "second"]


# --- what it costs ---


async def test_a_crowd_costs_one_statement_or_two(persistence: Store, user_id: str) -> None:
    threads = await make_threads(persistence, user_id, 50)
    messages, states = persistence.messages, persistence.states
    crowds: list[Callable[[str], Awaitable[Any]]] = [
        lambda thread: states.put(thread, 1, user_id=user_id),
        lambda thread: messages.append(thread, said("x"), user_id=user_id),
        lambda thread: states.get(thread, user_id=user_id, fresh=True),
    ]

    for crowd in crowds:
        async with counted_statements(persistence) as statements:
            await asyncio.gather(*(crowd(thread) for thread in threads))
        assert len(statements) <= 2  # from Python 3.12 on the first one may have left before the others came

    assert await all_are_back(persistence)


async def test_turned_off_each_is_done_by_itself(settings_for: SettingsFor, user_id: str) -> None:
    async with Store(await settings_for(batching=False)) as store:
        [thread_id] = await make_threads(store, user_id, 1)

        async with counted_statements(store) as statements:
            await at_once(*(store.messages.append(thread_id, said(str(place)), user_id=user_id) for place in range(3)))
            await at_once(*(store.states.get(thread_id, user_id=user_id, fresh=True) for _ in range(3)))

        assert len(statements) == 6
        assert sorted(await texts(store, thread_id, user_id)) == ["0", "1", "2"]


async def test_threads_that_are_changed_at_once_are_each_changed(
    any_persistence: AnyStore, any_user: Any, any_ids: Any
) -> None:
    threads = await make_threads(any_persistence, any_user, 5)
    update = any_persistence.threads.update

    found = await at_once(
        *(update(thread, user_id=any_user, name=f"{step}", meta={"n": step}) for step, thread in enumerate(threads)),
        update(threads[0], user_id=any_user, name="again", meta={}),
        update(threads[1], user_id=any_ids.user(), name="not mine", meta={}),
    )

    assert [(one.name, one.meta) for one in found[:5]] == [(f"{step}", {"n": step}) for step in range(5)]
    assert isinstance(found[6], ThreadNotFoundError)
    stored = [await any_persistence.threads.require(thread, user_id=any_user) for thread in threads]
    assert [one.name for one in stored] == ["again", "1", "2", "3", "4"]
    assert stored[0] == found[5]


async def test_results_that_are_recorded_at_once_cost_one_statement_and_the_first_of_a_call_stays(
    persistence: Store, user_id: str
) -> None:
    threads, record = await make_threads(persistence, user_id, 2), persistence.tool_results.record
    calls = [(thread, f"call {number}") for thread in threads for number in range(8)]

    async with counted_statements(persistence) as sent:
        made = await at_once(*(record(thread, call, [thread, call], user_id=user_id) for thread, call in calls))
    again = await at_once(*(record(thread, call, "another", user_id=user_id) for thread, call in calls))

    assert made == again == [[thread, call] for thread, call in calls]
    assert len(sent) <= 4
    assert isinstance((await at_once(record("missing", "call", 1, user_id=user_id)))[0], ThreadNotFoundError)


async def test_messages_that_are_deleted_at_once_cost_few_statements_and_only_the_owners_are_deleted(
    any_persistence: AnyStore, any_user: Any, any_ids: Any
) -> None:
    threads, delete = await make_threads(any_persistence, any_user, 2), any_persistence.messages.delete
    append = any_persistence.messages.append_many
    made = [
        (thread, message.message_id)
        for thread in threads
        for message in await append(thread, [said("go")] * 5 + [said("stay")], user_id=any_user)
    ]
    stays, goes = made[5::6], [one for index, one in enumerate(made) if index % 6 != 5]

    async with counted_statements(any_persistence) as sent:
        deleted = await at_once(*(delete(*one, user_id=any_user) for one in goes))
    others = await at_once(
        *(delete(*one, user_id=any_ids.user()) for one in stays),  # not theirs
        delete(*goes[0], user_id=any_user),  # gone already
        delete(threads[1], stays[0][1], user_id=any_user),  # in another thread
    )

    assert deleted == [True] * 10
    assert others == [False] * 4
    assert len(sent) <= 8
    assert [await texts(any_persistence, thread, any_user) for thread in threads] == [["stay"]] * 2
