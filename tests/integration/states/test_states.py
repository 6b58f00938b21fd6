import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from integration.repository_testing import SettingsFor, all_pages, run_sql
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.errors import (
    CheckpointingDisabledError,
    InvalidInputError,
    StateConflictError,
    StateNotFoundError,
    ThreadNotFoundError,
)
from agent_persistence.persistence import Persistence

DATA = {"step": 3, "scores": [1, 1.0, True, None, 1e23, -0.0, 2**63 - 1], "": {"text": "😀\r\n\x1b[31m"}}


async def new_thread(store: Persistence[Any, Any], user_id: Any) -> Any:
    return (await store.threads.create(user_id=user_id)).thread_id


async def with_states(store: Persistence[Any, Any], user_id: Any, count: int) -> tuple[Any, list[int]]:
    thread_id = await new_thread(store, user_id)
    saved = [await store.states.put(thread_id, number, user_id=user_id) for number in range(count)]
    return thread_id, [state.version for state in saved]


async def kept(store: Persistence[Any, Any], thread_id: Any, user_id: Any) -> list[Any]:
    return [state.data for state in await store.states.page(thread_id, user_id=user_id, limit=1000)]


async def test_a_state_comes_back_as_it_was_saved_from_the_cache_and_from_the_table(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user)

    saved = await any_persistence.states.put(thread_id, DATA, meta={"node": "plan"}, user_id=any_user)
    cached = await any_persistence.states.require(thread_id, user_id=any_user)
    stored = await any_persistence.states.require(thread_id, user_id=any_user, fresh=True)
    versioned = await any_persistence.states.get_version(thread_id, saved.version, user_id=any_user)

    assert (saved.thread_id, saved.data, saved.meta) == (thread_id, DATA, {"node": "plan"})
    assert saved == cached == stored == versioned
    assert repr(DATA["scores"]) == repr(cached.data["scores"]) == repr(stored.data["scores"])


@pytest.mark.parametrize("data", [None, True, 0, -0.0, 1.5, "", "text", [], {}, [[[]]], {"a": {"b": None}}])
async def test_any_json_value_is_a_state(persistence: Persistence[str, str], user_id: str, data: Any) -> None:
    thread_id = await new_thread(persistence, user_id)
    await persistence.states.put(thread_id, data, user_id=user_id)

    for fresh in (False, True):
        found = await persistence.states.require(thread_id, user_id=user_id, fresh=fresh)
        assert repr(found.data) == repr(data)


async def test_the_latest_state_is_found_and_the_older_ones_by_version(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    thread_id, versions = await with_states(any_persistence, any_user, 3)

    latest = await any_persistence.states.require(thread_id, user_id=any_user, fresh=True)
    first = await any_persistence.states.get_version(thread_id, versions[0], user_id=any_user)

    assert versions == sorted(set(versions))
    assert (latest.version, latest.data) == (versions[2], 2)
    assert first is not None
    assert (first.version, first.data) == (versions[0], 0)


async def test_states_are_listed_page_by_page_the_latest_first(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id, versions = await with_states(persistence, user_id, 5)

    for limit in (1, 2, 5, 6):
        listed = await all_pages(
            lambda **page: persistence.states.page(thread_id, **page), user_id=user_id, limit=limit
        )
        assert [state.version for state in listed] == versions[::-1]


async def test_a_state_is_saved_over_the_expected_version_only(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    thread_id = await new_thread(any_persistence, any_user)
    states = any_persistence.states

    first = await states.put(thread_id, 1, user_id=any_user, expected_version=0)
    second = await states.put(thread_id, 2, user_id=any_user, expected_version=first.version)
    for stale in (0, first.version, second.version + 1):
        with pytest.raises(StateConflictError) as caught:
            await states.put(thread_id, 3, user_id=any_user, expected_version=stale)
        assert (caught.value.expected, caught.value.found) == (stale, second.version)

    assert await kept(any_persistence, thread_id, any_user) == [2, 1]


async def test_a_conflict_leaves_the_unit_of_work_usable(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id, versions = await with_states(persistence, user_id, 1)

    async with persistence.begin(user_id=user_id) as uow:
        with pytest.raises(StateConflictError):
            await uow.states.put(thread_id, "mine", expected_version=0)
        latest = await uow.states.require(thread_id)
        await uow.states.put(thread_id, "merged", expected_version=latest.version)

    assert latest.version == versions[0]
    assert await kept(persistence, thread_id, user_id) == ["merged", 0]


async def test_an_expected_version_needs_a_transaction_that_can_see_the_latest(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id, versions = await with_states(persistence, user_id, 1)
    engine = persistence.engine.execution_options(isolation_level="REPEATABLE READ")

    async with AsyncSession(engine) as session:
        uow = persistence.bind(session, user_id=user_id)
        with pytest.raises(InvalidInputError, match="^expected_version: needs READ COMMITTED"):
            await uow.states.put(thread_id, "checked", expected_version=versions[0])
        await uow.states.put(thread_id, "unchecked")
        await session.commit()

    assert await kept(persistence, thread_id, user_id) == ["unchecked", 0]


async def test_several_states_of_one_transaction_follow_each_other(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = await new_thread(persistence, user_id)

    async with persistence.begin(user_id=user_id) as uow:
        first = await uow.states.put(thread_id, 1)
        second = await uow.states.put(thread_id, 2, expected_version=first.version)
        seen = await uow.states.get(thread_id)

    assert seen == second
    assert await kept(persistence, thread_id, user_id) == [2, 1]


async def test_what_is_not_there_is_none_or_an_error(
    any_persistence: Persistence[Any, Any], any_ids: Any, any_user: Any
) -> None:
    thread_id, absent = await new_thread(any_persistence, any_user), any_ids.thread()

    async with any_persistence.begin(user_id=any_user) as uow:
        for place in (thread_id, absent):
            assert await uow.states.get(place) is None
            assert await uow.states.get_version(place, 1) is None
            assert len(await uow.states.page(place)) == 0
            with pytest.raises(StateNotFoundError) as not_found:
                await uow.states.require(place)
            assert not_found.value.thread_id == place
        for call in (
            uow.states.put(absent, {}),
            uow.states.put(absent, {}, expected_version=0),
            uow.states.clear(absent),
            uow.states.prune(absent, keep_last=1),
        ):
            with pytest.raises(ThreadNotFoundError) as caught:
                await call
            assert caught.value.thread_id == absent


async def test_clear_deletes_every_state_and_the_versions_go_on(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id, versions = await with_states(persistence, user_id, 3)
    states = persistence.states

    assert await states.clear(thread_id, user_id=user_id) == 3
    assert await states.clear(thread_id, user_id=user_id) == 0
    assert await states.get(thread_id, user_id=user_id) is None

    again = await states.put(thread_id, "again", user_id=user_id, expected_version=0)
    assert again.version > versions[-1]


@pytest.mark.parametrize(("keep", "left"), [(1, [3]), (2, [3, 2]), (4, [3, 2, 1, 0]), (10, [3, 2, 1, 0])])
async def test_prune_keeps_the_newest(
    persistence: Persistence[str, str], user_id: str, keep: int, left: list[int]
) -> None:
    thread_id, _ = await with_states(persistence, user_id, 4)
    other, _ = await with_states(persistence, user_id, 4)

    deleted = await persistence.states.prune(thread_id, keep_last=keep, user_id=user_id)

    assert deleted == 4 - len(left)
    assert await kept(persistence, thread_id, user_id) == left
    assert await kept(persistence, other, user_id) == [3, 2, 1, 0]


async def test_prune_deletes_what_is_older_but_never_the_latest(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id, versions = await with_states(persistence, user_id, 4)
    await run_sql(
        persistence,
        "UPDATE states SET created_at = now() - interval '2 days' WHERE thread_id = :id AND state_id <= :version",
        id=thread_id,
        version=versions[1],
    )
    states = persistence.states
    yesterday, tomorrow = (datetime.now(UTC) + timedelta(days=days) for days in (-1, 1))

    assert await states.prune(thread_id, older_than=timedelta(days=3), user_id=user_id) == 0
    assert await states.prune(thread_id, older_than=timedelta(days=1), keep_last=3, user_id=user_id) == 1
    assert await states.prune(thread_id, older_than=yesterday, user_id=user_id) == 1
    assert await states.prune(thread_id, older_than=yesterday, user_id=user_id) == 0
    assert await kept(persistence, thread_id, user_id) == [3, 2]
    assert await states.prune(thread_id, older_than=tomorrow, user_id=user_id) == 1
    assert await kept(persistence, thread_id, user_id) == [3]
    assert (await states.require(thread_id, user_id=user_id)).data == 3


async def test_a_thread_keeps_as_many_states_as_the_settings_say(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(max_checkpoint_history=2)) as store:
        thread_id = await new_thread(store, user_id)

        for number in range(4):
            await store.states.put(thread_id, number, user_id=user_id)
            assert await kept(store, thread_id, user_id) == list(range(number, max(number - 2, -1), -1))


async def test_no_state_is_saved_while_checkpointing_is_off(
    settings_for: SettingsFor, persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id, _ = await with_states(persistence, user_id, 1)

    async with Persistence[str, str](await settings_for(enable_checkpointing=False)) as store:
        with pytest.raises(CheckpointingDisabledError):
            await store.states.put(thread_id, "new", user_id=user_id)
        assert (await store.states.require(thread_id, user_id=user_id)).data == 0


async def test_the_caller_s_later_changes_reach_neither_table_nor_cache(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id, data = await new_thread(persistence, user_id), {"step": 1}

    async with persistence.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, data)
        data["step"] = 2

    for fresh in (False, True):
        found = await persistence.states.require(thread_id, user_id=user_id, fresh=fresh)
        assert found.data == {"step": 1}


async def test_prune_wants_to_know_what_to_delete(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id, _ = await with_states(persistence, user_id, 2)

    with pytest.raises(InvalidInputError, match="^keep_last: give keep_last, older_than or both"):
        await persistence.states.prune(thread_id, user_id=user_id)

    assert await kept(persistence, thread_id, user_id) == [1, 0]


async def test_states_of_different_threads_can_be_saved_side_by_side(
    persistence: Persistence[str, str], user_id: str
) -> None:
    threads = [await new_thread(persistence, user_id) for _ in range(8)]

    await asyncio.gather(*(persistence.states.put(one, one, user_id=user_id) for one in threads))

    for thread_id in threads:
        assert (await persistence.states.require(thread_id, user_id=user_id)).data == thread_id
