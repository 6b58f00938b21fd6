"""What belongs to somebody else does not exist: same answer as for an absent id, and nothing changes."""

import inspect
import re
from collections.abc import Awaitable
from typing import Any

import pytest
from integration.repository_testing import CALLS, HELLO, Call, Place, run_sql

from agent_persistence.errors import PersistenceError
from agent_persistence.operations.cached_states import CachedStates
from agent_persistence.operations.one_call import (
    OneCallEntities,
    OneCallMessages,
    OneCallStates,
    OneCallThreads,
    OneCallToolResults,
)
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, Page
from agent_persistence.repositories import EntityRepository, MessageRepository, ThreadRepository, ToolResultRepository

# Calls with the arguments that take another way through the code.
VARIANTS: dict[str, Call] = {
    "messages.append the same id": lambda store, place, **owner: store.messages.append(
        place.thread_id, HELLO, message_id=place.message_id, **owner
    ),
    "messages.page search": lambda store, place, **owner: store.messages.page(place.thread_id, search="", **owner),
    "states.put over": lambda store, place, **owner: store.states.put(
        place.thread_id, "forged", expected_version=place.version, **owner
    ),
    "states.get fresh": lambda store, place, **owner: store.states.get(place.thread_id, fresh=True, **owner),
    "states.get min_version": lambda store, place, **owner: store.states.get(place.thread_id, min_version=1, **owner),
}
OF_A_TRANSACTION = {"threads.lock"}
OF_NO_THREAD = {"threads.create", "threads.create_many", "threads.page", "threads.prepare"}


def public_methods(kind: type, name: str) -> set[str]:
    return {
        f"{name}.{method}" for method, _ in inspect.getmembers(kind, inspect.isfunction) if not method.startswith("_")
    }


def test_every_public_method_is_called_below() -> None:
    unit_of_work = (
        public_methods(ThreadRepository, "threads")
        | public_methods(MessageRepository, "messages")
        | public_methods(CachedStates, "states")
        | public_methods(EntityRepository, "entities")
        | public_methods(ToolResultRepository, "tool_results")
    )
    facades = (
        public_methods(OneCallThreads, "threads")
        | public_methods(OneCallMessages, "messages")
        | public_methods(OneCallStates, "states")
        | public_methods(OneCallEntities, "entities")
        | public_methods(OneCallToolResults, "tool_results")
    )

    assert facades == unit_of_work - OF_A_TRANSACTION == CALLS.keys() | OF_NO_THREAD


async def filled(store: Persistence[Any, Any], owner: Any) -> Place:
    thread_id = (await store.threads.create(user_id=owner, name="mine", meta={"secret": 1})).thread_id
    made = await store.messages.append_many(thread_id, [HELLO, HELLO], user_id=owner)
    for number in range(2):
        state = await store.states.put(thread_id, number, user_id=owner)
    await store.tool_results.record(thread_id, "call", {"secret": 1}, user_id=owner)
    return Place(thread_id, made[0].message_id, state.version)


async def rows_of(store: Persistence[Any, Any], place: Place) -> list[Any]:
    return [
        await run_sql(store, f"SELECT {table}::text FROM {table} WHERE thread_id = :id ORDER BY 1", id=place.thread_id)
        for table in ("threads", "messages", "states", "tool_results")
    ]


async def answer(call: Awaitable[Any], place: Place) -> Any:
    """What a caller can tell: the result or the error, with the ids that it asked for left out."""
    try:
        result = await call
    except PersistenceError as error:
        ids = "|".join(re.escape(repr(one)) for one in (place.thread_id, place.message_id))
        return type(error), re.sub(rf"(?<![\w-])({ids})(?![\w-])", "", str(error))
    return (result.items, result.corrupt, result.before, result.after) if isinstance(result, Page) else result


@pytest.mark.parametrize("through", ["unit of work", "facade"])
async def test_somebody_else_s_thread_answers_like_one_that_is_not_there(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any, through: str
) -> None:
    store, stranger = any_persistence, any_ids.user()
    mine, absent = await filled(store, any_user), Place(any_ids.thread(), any_ids.message(), 1)
    before = await rows_of(store, mine)
    assert await store.states.get(mine.thread_id, user_id=any_user) is not None  # and so it is in the cache

    for name, call in (CALLS | VARIANTS).items():
        if through == "facade":
            answers = [await answer(call(store, place, user_id=stranger), place) for place in (mine, absent)]
        else:
            async with store.begin(user_id=stranger) as uow:
                answers = [await answer(call(uow, place), place) for place in (mine, absent)]
        assert answers[0] == answers[1], name

    assert await rows_of(store, mine) == before
    cached = await store.states.require(mine.thread_id, user_id=any_user)
    assert (cached.version, cached.data) == (mine.version, 1)


async def test_the_list_holds_the_owner_s_threads_only(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    stranger = any_ids.user()
    mine = await filled(any_persistence, any_user)
    theirs = await filled(any_persistence, stranger)
    await any_persistence.threads.archive((await filled(any_persistence, any_user)).thread_id, user_id=any_user)

    for filters in ({}, {"search": "mine"}, {"meta": {"secret": 1}}):
        found = await any_persistence.threads.page(user_id=stranger, **filters)
        assert [one.thread_id for one in found] == [theirs.thread_id]
    assert len(await any_persistence.threads.page(user_id=stranger, archived=True)) == 0
    assert [one.thread_id for one in await any_persistence.threads.page(user_id=any_user)] == [mine.thread_id]


async def test_a_cursor_of_somebody_else_shows_nothing_of_theirs(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    stranger = any_ids.user()
    await filled(any_persistence, any_user)
    theirs = await filled(any_persistence, stranger)
    mine = [await filled(any_persistence, any_user) for _ in range(2)]

    threads = await any_persistence.threads.page(user_id=any_user, limit=1)
    messages = await any_persistence.messages.page(mine[0].thread_id, user_id=any_user, limit=1)
    states = await any_persistence.states.page(mine[0].thread_id, user_id=any_user, limit=1)

    seen = await any_persistence.threads.page(user_id=stranger, after=threads.after)
    assert [one.thread_id for one in seen] == [theirs.thread_id]
    for cursor in ({"before": messages.before}, {"after": messages.after}):
        page = await any_persistence.messages.page(mine[0].thread_id, user_id=stranger, **cursor)
        assert page.items == ()
    assert (await any_persistence.states.page(mine[0].thread_id, user_id=stranger, after=states.after)).items == ()


async def test_owners_with_the_same_message_ids_do_not_meet(
    any_persistence: Persistence[Any, Any], any_ids: Any
) -> None:
    owners, message_id = [any_ids.user() for _ in range(2)], any_ids.message()
    threads = [(await any_persistence.threads.create(user_id=owner)).thread_id for owner in owners]
    messages = any_persistence.messages

    for number, (owner, thread_id) in enumerate(zip(owners, threads, strict=True)):
        said = {"role": "user", "content": f"of {number}"}
        await messages.append(thread_id, said, message_id=message_id, user_id=owner)
    await messages.update(threads[0], message_id, meta={"read": True}, user_id=owners[0])
    await messages.delete(threads[0], message_id, user_id=owners[0])

    assert await messages.get(threads[0], message_id, user_id=owners[0]) is None
    kept = await messages.require(threads[1], message_id, user_id=owners[1])
    assert (kept.text, kept.meta) == ("of 1", {})


async def test_everybody_s_unit_of_work_sees_and_changes_every_owner_s_threads(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    store = any_persistence
    mine = await filled(store, any_user)
    read = [name for name in CALLS if name.split(".")[1] in ("get", "require", "page", "get_version")]

    for name in read:
        as_owner = await answer(CALLS[name](store, mine, user_id=any_user), mine)
        assert await answer(CALLS[name](store, mine, user_id=ANY_USER), mine) == as_owner, name
        async with store.begin(user_id=ANY_USER) as uow:
            assert await answer(CALLS[name](uow, mine), mine) == as_owner, name

    renamed = await store.threads.update(mine.thread_id, name="by an admin", user_id=ANY_USER)
    message = await store.messages.append(mine.thread_id, HELLO, user_id=ANY_USER)
    state = await store.states.put(mine.thread_id, "by an admin", user_id=ANY_USER)

    assert renamed.user_id == any_user
    assert await store.messages.get(mine.thread_id, message.message_id, user_id=any_user) == message
    assert await store.states.get(mine.thread_id, user_id=any_user) == state
    assert await store.threads.delete(mine.thread_id, user_id=ANY_USER)
    assert await store.threads.get(mine.thread_id, user_id=any_user) is None
    assert await store.states.get(mine.thread_id, user_id=any_user) is None


async def test_everybody_s_list_holds_the_threads_of_all(any_persistence: Persistence[Any, Any], any_ids: Any) -> None:
    owners = [any_ids.user() for _ in range(2)]
    made = [(await any_persistence.threads.create(user_id=owner, name="of two")).thread_id for owner in owners]

    page = await any_persistence.threads.page(user_id=ANY_USER, search="of two")

    assert [one.thread_id for one in page][:2] == made[::-1]
    assert [one.user_id for one in page][:2] == owners[::-1]
