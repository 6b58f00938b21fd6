import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from integration.repository_testing import HELLO, SettingsFor, all_pages, run_sql

from agent_persistence import migrate
from agent_persistence.errors import InvalidInputError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, NewMessage
from agent_persistence.settings import PersistenceSettings

META = {"a": {"b": [1, 1.0, True, None, 1e23, -0.0]}, "": "😀"}


async def test_a_thread_comes_back_as_it_was_made(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id = any_ids.thread()

    async with any_persistence.begin(user_id=any_user) as uow:
        made = await uow.threads.create(thread_id=thread_id, name="Trip", meta=META)
    found = await any_persistence.threads.get(thread_id, user_id=any_user)

    assert (made.thread_id, made.user_id, made.name, made.archived) == (thread_id, any_user, "Trip", False)
    assert repr(made.meta["a"]) == repr(META["a"])
    assert abs(made.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert made.created_at == made.updated_at
    assert found == made
    assert repr(found.meta["a"]) == repr(META["a"])


async def test_a_thread_without_an_id_gets_one(any_persistence: Persistence[Any, Any], any_user: Any) -> None:
    async with any_persistence.begin(user_id=any_user) as uow:
        made = [await uow.threads.create() for _ in range(3)]

    assert all(isinstance(one.thread_id, any_persistence.models.id_types.id.python_type) for one in made)
    assert [thread.thread_id for thread in made] == sorted({thread.thread_id for thread in made})
    assert [(thread.name, thread.meta, thread.user_id) for thread in made] == [(None, {}, any_user)] * 3


async def test_a_taken_id_is_refused_and_the_unit_of_work_goes_on(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id = any_ids.thread()
    await any_persistence.threads.create(user_id=any_ids.user(), thread_id=thread_id, name="first")

    async with any_persistence.begin(user_id=any_user) as uow:
        with pytest.raises(ThreadExistsError) as caught:
            await uow.threads.create(thread_id=thread_id, name="second")
        other = await uow.threads.create()

    assert caught.value.thread_id == thread_id
    assert (await any_persistence.threads.require(thread_id, user_id=ANY_USER)).name == "first"
    assert await any_persistence.threads.get(other.thread_id, user_id=any_user) == other


async def test_a_thread_that_is_not_there_is_none_or_an_error(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    absent = any_ids.thread()

    async with any_persistence.begin(user_id=any_user) as uow:
        assert await uow.threads.get(absent) is None
        assert await uow.threads.delete(absent) is False
        for call in (
            uow.threads.require(absent),
            uow.threads.update(absent, name="x"),
            uow.threads.archive(absent),
            uow.threads.unarchive(absent),
        ):
            with pytest.raises(ThreadNotFoundError) as caught:
                await call
            assert caught.value.thread_id == absent


async def test_an_update_changes_what_is_given_and_nothing_else(
    persistence: Persistence[str, str], user_id: str
) -> None:
    threads = persistence.threads
    made = await threads.create(user_id=user_id, name="a", meta={"x": 1})

    renamed = await threads.update(made.thread_id, user_id=user_id, name="b")
    marked = await threads.update(made.thread_id, user_id=user_id, meta={"y": 2})
    bare = await threads.update(made.thread_id, user_id=user_id, name=None)

    assert (renamed.name, renamed.meta) == ("b", {"x": 1})
    assert (marked.name, marked.meta) == ("b", {"y": 2})
    assert (bare.name, bare.meta) == (None, {"y": 2})
    assert {(one.created_at, one.updated_at) for one in (made, renamed, marked, bare)} == {
        (made.created_at, made.updated_at)
    }
    assert await threads.get(made.thread_id, user_id=user_id) == bare


async def test_an_update_of_nothing_is_refused(persistence: Persistence[str, str], user_id: str) -> None:
    made = await persistence.threads.create(user_id=user_id)

    with pytest.raises(InvalidInputError, match="nothing to update"):
        await persistence.threads.update(made.thread_id, user_id=user_id)

    assert await persistence.threads.get(made.thread_id, user_id=user_id) == made


async def test_the_list_has_each_thread_once_the_most_recently_active_first(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    threads = any_persistence.threads
    one_by_one = [await threads.create(user_id=any_user) for _ in range(3)]
    async with any_persistence.begin(user_id=any_user) as uow:
        together = [await uow.threads.create() for _ in range(4)]  # one transaction: one time
    await any_persistence.messages.append(one_by_one[0].thread_id, HELLO, user_id=any_user)
    expected = [one_by_one[0], *sorted(together, key=lambda one: one.thread_id, reverse=True), *one_by_one[:0:-1]]

    for limit in (1, 2, 3, 7, 8):
        listed = await all_pages(threads.page, user_id=any_user, limit=limit)

        assert [one.thread_id for one in listed] == [one.thread_id for one in expected]


async def test_a_page_says_whether_there_is_more(persistence: Persistence[str, str], user_id: str) -> None:
    threads = persistence.threads
    for _ in range(3):
        await threads.create(user_id=user_id)

    first = await threads.page(user_id=user_id, limit=2)
    second = await threads.page(user_id=user_id, limit=2, after=first.after)

    assert (len(first), first.before, first.corrupt) == (2, None, ())
    assert first.after is not None
    assert (len(second), second.before, second.after) == (1, None, None)
    assert (await threads.page(user_id=user_id, limit=3)).after is None


async def test_an_archived_thread_is_in_the_other_list_and_all_its_data_stay(
    persistence: Persistence[str, str], user_id: str
) -> None:
    threads = persistence.threads
    kept, made = [await threads.create(user_id=user_id) for _ in range(2)]
    await persistence.messages.append(made.thread_id, HELLO, user_id=user_id)

    archived = await threads.archive(made.thread_id, user_id=user_id)
    again = await threads.archive(made.thread_id, user_id=user_id)

    assert archived.archived
    assert again.archived_at == archived.archived_at
    assert [one.thread_id for one in await threads.page(user_id=user_id)] == [kept.thread_id]
    assert [one.thread_id for one in await threads.page(user_id=user_id, archived=True)] == [made.thread_id]
    assert len(await persistence.messages.page(made.thread_id, user_id=user_id)) == 1

    back = await threads.unarchive(made.thread_id, user_id=user_id)

    assert (back.archived, back.archived_at) == (False, None)
    assert [one.thread_id for one in await threads.page(user_id=user_id)] == [made.thread_id, kept.thread_id]
    assert len(await threads.page(user_id=user_id, archived=True)) == 0


async def test_a_deleted_thread_takes_its_messages_and_states_with_it(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    thread_id = (await any_persistence.threads.create(user_id=any_user)).thread_id
    await any_persistence.messages.append(thread_id, HELLO, user_id=any_user)
    await any_persistence.states.put(thread_id, {"step": 1}, user_id=any_user)

    assert await any_persistence.threads.delete(thread_id, user_id=any_user) is True

    assert await any_persistence.threads.delete(thread_id, user_id=any_user) is False
    assert await any_persistence.threads.get(thread_id, user_id=any_user) is None
    assert await any_persistence.states.get(thread_id, user_id=any_user) is None
    assert len(await any_persistence.messages.page(thread_id, user_id=any_user)) == 0
    for table in ("messages", "states"):
        rows = await run_sql(any_persistence, f"SELECT 1 FROM {table} WHERE thread_id = :id", id=thread_id)
        assert not rows


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("100%", ["100% sure"]),
        ("%", ["100% sure"]),
        ("_", ["a_b"]),
        ("a_b", ["a_b"]),
        ("\\", ["c\\d"]),
        ("c\\d", ["c\\d"]),
        ("/", ["e/f"]),
        ("E/", ["e/f"]),
        ("É", ["café"]),
        ("'; DROP TABLE threads; --", []),
        ("sur", ["100% sure"]),
        ("", ["100% sure", "a_b", "axb", "c\\d", "café", "e/f"]),
    ],
)
async def test_a_search_finds_the_text_itself_whatever_its_case(
    persistence: Persistence[str, str], user_id: str, search: str, found: list[str]
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        for name in ("100% sure", "a_b", "axb", "c\\d", "e/f", "café", None):
            await uow.threads.create(name=name)

        page = await uow.threads.page(search=search)

    assert sorted(str(one.name) for one in page) == found


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"tenant": "x"}, ["both", "tenant"]),
        ({"tenant": "x", "tags": ["b"]}, ["both"]),
        ({"tags": ["a", "b"]}, ["both"]),
        ({"tenant": "' OR true --"}, []),
        ({"tenant": "X"}, []),
        ({"score": 1.0}, ["both"]),
        ({"gone": None}, ["tenant"]),
    ],
)
async def test_a_filter_finds_the_threads_whose_meta_contain_it(
    persistence: Persistence[str, str], user_id: str, wanted: dict[str, Any], found: list[str]
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.create(name="both", meta={"tenant": "x", "tags": ["a", "b", "c"], "score": 1})
        await uow.threads.create(name="tenant", meta={"tenant": "x", "gone": None})
        await uow.threads.create(name="neither")

        page = await uow.threads.page(meta=wanted)

    assert sorted(str(one.name) for one in page) == found


async def test_search_filter_and_archive_narrow_the_same_list_page_by_page(
    persistence: Persistence[str, str], user_id: str
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        for number in range(12):
            thread = await uow.threads.create(name=f"trip {number}", meta={"odd": number % 2 == 1})
            if number >= 8:
                await uow.threads.archive(thread.thread_id)

    open_ones = await all_pages(persistence.threads.page, user_id=user_id, search="TRIP", meta={"odd": True}, limit=3)
    archived = await all_pages(
        persistence.threads.page, user_id=user_id, search="trip", meta={"odd": True}, archived=True, limit=1
    )

    assert sorted(str(one.name) for one in open_ones) == ["trip 1", "trip 3", "trip 5", "trip 7"]
    assert sorted(str(one.name) for one in archived) == ["trip 11", "trip 9"]


async def test_an_owner_is_named_where_the_unit_of_work_is_everybody_s(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    async with any_persistence.begin(user_id=ANY_USER) as uow:
        made = await uow.threads.create(user_id=any_user, name="made by an admin")

    assert await any_persistence.threads.get(made.thread_id, user_id=any_user) == made


async def test_no_other_owner_can_be_named_in_a_unit_of_work_of_one(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    async with any_persistence.begin(user_id=any_user) as uow:
        with pytest.raises(InvalidInputError, match="^user_id: "):
            await uow.threads.create(user_id=any_ids.user())
        made = await uow.threads.create(user_id=any_user)

    assert made.user_id == any_user


async def test_a_thread_of_everybody_without_an_owner_is_refused(persistence: Persistence[str, str]) -> None:
    async with persistence.begin(user_id=ANY_USER) as uow:
        with pytest.raises(InvalidInputError, match="^user_id: "):
            await uow.threads.create()


@pytest.mark.parametrize("kind", ["int", "bigint"])
@pytest.mark.parametrize("given", [[2], [1, 2, 3], [1, 3, 5, 7], [2**31 - 1], list(range(1, 41))])
async def test_the_database_passes_over_ids_given_by_hand(
    make_database: Any, kind: str, given: list[int], user_id: str
) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database(), id_type=kind)
    await migrate.upgrade(settings)
    taken = [NewMessage(message=HELLO, message_id=one) for one in given]

    async with Persistence[int, str](settings) as store, store.begin(user_id=user_id) as uow:
        threads = [await uow.threads.create(thread_id=one) for one in given]
        threads += [await uow.threads.create() for _ in range(5)]
        thread_id = threads[-1].thread_id
        messages = [*await uow.messages.append_many(thread_id, taken), await uow.messages.append(thread_id, HELLO)]
        messages += await uow.messages.append_many(thread_id, [HELLO] * 4)

    for ids in ([one.thread_id for one in threads], [one.message_id for one in messages]):
        assert ids[: len(given)] == given
        generated = ids[len(given) :]
        assert generated == sorted(set(generated) - set(given))
        assert len(generated) == 5
    assert [one.seq for one in messages] == sorted({one.seq for one in messages})


async def _streamed() -> AsyncIterator[bytes]:
    yield b"a state"


@pytest.mark.parametrize("interval", [0, 10, 3600])
async def test_activity_moves_a_thread_to_the_top(settings_for: SettingsFor, user_id: str, interval: int) -> None:
    async with Persistence[str, str](await settings_for(thread_touch_interval=interval)) as store:
        thread = await store.threads.create(user_id=user_id)
        thread_id, times = thread.thread_id, [thread.updated_at]

        async def in_a_unit_of_work() -> None:
            async with store.begin(user_id=user_id) as uow:
                await uow.messages.append(thread_id, HELLO)

        for activity in (
            lambda: store.messages.append(thread_id, HELLO, user_id=user_id),
            lambda: store.messages.append_many(thread_id, [HELLO] * 250, user_id=user_id),
            in_a_unit_of_work,
            lambda: store.states.put(thread_id, {}, user_id=user_id),
            lambda: store.states.put_stream(thread_id, _streamed(), user_id=user_id),
        ):
            other = await store.threads.create(user_id=user_id)
            await activity()
            first, second, *_ = await store.threads.page(user_id=user_id)
            assert (first.thread_id, second.thread_id) == (thread.thread_id, other.thread_id)
            times.append(first.updated_at)

        assert times == sorted(set(times))


@pytest.mark.parametrize("interval", [0, 3600])
async def test_nothing_but_messages_and_states_moves_a_thread(
    settings_for: SettingsFor, user_id: str, interval: int
) -> None:
    async with Persistence[str, str](await settings_for(thread_touch_interval=interval)) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        said = [await store.messages.append(thread_id, HELLO, user_id=user_id) for _ in range(2)]
        await store.states.put(thread_id, {}, user_id=user_id)
        before = await store.threads.require(thread_id, user_id=user_id)
        other = await store.threads.create(user_id=user_id)

        await store.threads.update(thread_id, user_id=user_id, name="renamed", meta={"pinned": True})
        await store.messages.update(thread_id, said[0].message_id, user_id=user_id, meta={"thumbs": "up"})
        await store.messages.update(thread_id, said[0].message_id, user_id=user_id, message={**HELLO, "name": "li"})
        await store.messages.delete(thread_id, said[1].message_id, user_id=user_id)
        await store.tool_results.record(thread_id, "call", 1, user_id=user_id)
        await store.states.clear(thread_id, user_id=user_id)
        await store.threads.archive(thread_id, user_id=user_id)
        after = await store.threads.unarchive(thread_id, user_id=user_id)

        assert after.updated_at == before.updated_at
        assert [one.thread_id for one in await store.threads.page(user_id=user_id)] == [other.thread_id, thread_id]


async def test_the_list_is_in_the_order_of_the_last_messages(persistence: Persistence[str, str], user_id: str) -> None:
    threads = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(5)]
    random = Random(7)
    last: list[str] = threads[::-1]

    for _ in range(40):
        thread_id = random.choice(threads)
        await persistence.messages.append(thread_id, HELLO, user_id=user_id)
        last = [thread_id, *(one for one in last if one != thread_id)]
        assert [one.thread_id for one in await persistence.threads.page(user_id=user_id)] == last


async def test_a_writer_that_waited_is_last_in_the_order(persistence: Persistence[str, str], user_id: str) -> None:
    first, second = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(2)]

    async with persistence.begin(user_id=user_id) as uow:
        await uow.threads.require(first)  # the transaction has begun
        await persistence.messages.append(second, HELLO, user_id=user_id)
        await uow.messages.append(first, HELLO)

    assert [one.thread_id for one in await persistence.threads.page(user_id=user_id)] == [first, second]


async def test_a_burst_of_activity_writes_the_thread_at_most_once_an_interval(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    version = "SELECT ctid::text, updated_at FROM threads WHERE thread_id = :id"
    [before] = await run_sql(
        persistence,
        "UPDATE threads SET updated_at = now() - interval '11 seconds' WHERE thread_id = :id"
        " RETURNING ctid::text, updated_at",
        id=thread_id,
    )

    await persistence.messages.append(thread_id, HELLO, user_id=user_id)
    [moved] = await run_sql(persistence, version, id=thread_id)
    for _ in range(5):
        await persistence.messages.append(thread_id, HELLO, user_id=user_id)
        await persistence.states.put(thread_id, {}, user_id=user_id)
    [after] = await run_sql(persistence, version, id=thread_id)

    assert moved.updated_at > before.updated_at
    assert moved.ctid != before.ctid
    assert after == moved


async def test_reading_is_no_activity(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(thread_touch_interval=0)) as store:
        thread = await store.threads.create(user_id=user_id)

        await store.messages.page(thread.thread_id, user_id=user_id)
        await store.states.get(thread.thread_id, user_id=user_id)

        assert await store.threads.get(thread.thread_id, user_id=user_id) == thread


async def test_a_lock_returns_the_thread_as_the_writer_before_it_left_it(
    any_persistence: Persistence[Any, Any], any_user: Any, any_ids: Any
) -> None:
    store = any_persistence
    thread_id = (await store.threads.create(user_id=any_user)).thread_id

    async def count(uow: UnitOfWork[Any, Any]) -> None:
        meta = (await uow.threads.lock(thread_id)).meta
        await uow.threads.update(thread_id, meta={"count": meta.get("count", 0) + 1})

    await asyncio.gather(*(store.run(count, user_id=any_user) for _ in range(6)))

    assert (await store.threads.require(thread_id, user_id=any_user)).meta == {"count": 6}
    with pytest.raises(ThreadNotFoundError):
        await store.run(count, user_id=any_ids.user())
