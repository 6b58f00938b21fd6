"""Rows that somebody else wrote and nobody can read: each is reported by itself, and hides no other."""

from typing import Any

import pytest
from integration.repository_testing import run_sql

from agent_persistence import migrate
from agent_persistence.errors import CorruptRowError, IdempotencyConflictError
from agent_persistence.persistence import Persistence
from agent_persistence.records import MessageRole, NewMessage
from agent_persistence.settings import PersistenceSettings

HUGE_NUMBER = "'{\"a\": 1e5000}'::jsonb"
TIMES = {
    "infinity": "'infinity'",
    "-infinity": "'-infinity'",
    "BC": "'0044-03-15 00:00:00Z BC'",
    "last moment of 1 BC": "'0001-12-31 23:59:59.999999Z BC'",
    "last moment of 9999": "'9999-12-31 23:59:59.999999Z'",
    "year 10000": "'10000-01-01 00:00:00Z'",
    "year 294276": "'294276-12-31 23:59:59Z'",
}
EXTRAS = ["[1]", "5", '"text"', "true", '{"set": [1]}', '{"set": "ab"}', '{"unset": 5}', '{"unset": [[1]]}']


def said(text: object) -> dict[str, Any]:
    return {"role": "user", "content": str(text)}


def change(table: str, column: str, sql: str) -> str:
    key = {"threads": "thread_id", "messages": "message_id", "states": "state_id"}[table]
    return f"UPDATE {table} SET {column} = {sql} WHERE {key} = :key"


THREADS = [
    ("meta", HUGE_NUMBER),
    *[(column, time) for column in ("created_at", "updated_at") for time in TIMES.values()],
]
MESSAGES = [
    *[(column, HUGE_NUMBER) for column in ("meta", "usages", "tool_calls", "extra")],
    *[("extra", f"'{extra}'::jsonb") for extra in EXTRAS],
    *[("created_at", time) for time in TIMES.values()],
    ("updated_at", TIMES["BC"]),
]
STATES = [("state_data", HUGE_NUMBER), ("meta", HUGE_NUMBER), *[("created_at", time) for time in TIMES.values()]]


@pytest.mark.parametrize(("column", "sql"), THREADS)
async def test_an_unreadable_thread_is_reported_and_the_others_are_listed(
    persistence: Persistence[str, str], user_id: str, column: str, sql: str
) -> None:
    threads = [await persistence.threads.create(user_id=user_id) for _ in range(3)]
    bad = threads[1].thread_id
    await run_sql(persistence, change("threads", column, sql), key=bad)

    listed, corrupt, after = [], [], None
    for _ in range(4):
        page = await persistence.threads.page(user_id=user_id, limit=1, after=after)
        listed += page.items
        corrupt += page.corrupt
        after = page.after
        if after is None:
            break
    whole = await persistence.threads.page(user_id=user_id)

    assert after is None
    assert listed == list(whole.items) == [threads[2], threads[0]]
    for [error] in (corrupt, whole.corrupt):
        assert (error.table, error.key, error.column) == ("threads", bad, column)
    with pytest.raises(CorruptRowError) as caught:
        await persistence.threads.get(bad, user_id=user_id)
    assert (caught.value.key, caught.value.column) == (bad, column)
    assert "5000" not in str(caught.value)


@pytest.mark.parametrize("sql", TIMES.values(), ids=TIMES)
async def test_an_unreadable_time_of_archiving_is_reported(
    persistence: Persistence[str, str], user_id: str, sql: str
) -> None:
    good, bad = [(await persistence.threads.create(user_id=user_id)).thread_id for _ in range(2)]
    await persistence.threads.archive(good, user_id=user_id)
    await run_sql(persistence, change("threads", "archived_at", sql), key=bad)

    page = await persistence.threads.page(user_id=user_id, archived=True)

    assert [one.thread_id for one in page] == [good]
    assert [(one.key, one.column) for one in page.corrupt] == [(bad, "archived_at")]


async def test_the_cursor_behind_an_unreadable_thread_works_for_every_kind_of_id(
    any_persistence: Persistence[Any, Any], any_user: Any
) -> None:
    threads = [(await any_persistence.threads.create(user_id=any_user)).thread_id for _ in range(3)]
    for bad in threads[1:]:
        await run_sql(any_persistence, change("threads", "updated_at", TIMES["year 10000"]), key=bad)

    first = await any_persistence.threads.page(user_id=any_user, limit=1)
    second = await any_persistence.threads.page(user_id=any_user, limit=1, after=first.after)
    third = await any_persistence.threads.page(user_id=any_user, limit=1, after=second.after)

    assert [error.key for error in (*first.corrupt, *second.corrupt)] == threads[:0:-1]
    assert [one.thread_id for one in third] == threads[:1]
    assert third.after is None


@pytest.mark.parametrize(("column", "sql"), MESSAGES)
async def test_an_unreadable_message_is_reported_and_the_others_are_read(
    persistence: Persistence[str, str], user_id: str, column: str, sql: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    first, bad, last = await persistence.messages.append_many(thread_id, [said(n) for n in range(3)], user_id=user_id)
    await run_sql(persistence, change("messages", column, sql), key=bad.message_id)

    whole = await persistence.messages.page(thread_id, user_id=user_id)
    newest = await persistence.messages.page(thread_id, user_id=user_id, limit=1)
    middle = await persistence.messages.page(thread_id, user_id=user_id, limit=1, before=newest.before)
    oldest = await persistence.messages.page(thread_id, user_id=user_id, limit=1, before=middle.before)
    forward = await persistence.messages.page(thread_id, user_id=user_id, after=oldest.after)

    assert whole.items == (first, last)
    assert (newest.items, middle.items, oldest.items) == ((last,), (), (first,))
    assert forward.items == (last,)
    for page in (whole, middle, forward):
        [error] = page.corrupt
        assert (error.table, error.key, error.column) == ("messages", (thread_id, bad.message_id), column)
    with pytest.raises(CorruptRowError):
        await persistence.messages.require(thread_id, bad.message_id, user_id=user_id)
    assert await persistence.messages.delete(thread_id, bad.message_id, user_id=user_id)


@pytest.mark.parametrize("column", ["tool_calls", "extra"])
async def test_an_unreadable_message_can_be_replaced(
    persistence: Persistence[str, str], user_id: str, column: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    bad = await persistence.messages.append(thread_id, said("old"), user_id=user_id)
    await run_sql(persistence, change("messages", column, HUGE_NUMBER), key=bad.message_id)

    mended = await persistence.messages.update(thread_id, bad.message_id, message=said("new"), user_id=user_id)

    assert await persistence.messages.require(thread_id, bad.message_id, user_id=user_id) == mended


async def test_a_batch_that_meets_an_unreadable_message_leaves_nothing_even_if_the_caller_commits(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    bad = await persistence.messages.append(thread_id, said("old"), message_id="bad", user_id=user_id)
    await run_sql(persistence, change("messages", "extra", HUGE_NUMBER), key=bad.message_id)
    batch = [said("new"), NewMessage(message=said("old"), message_id="bad"), said("newer")]

    async with persistence.begin(user_id=user_id) as uow:
        with pytest.raises(CorruptRowError):
            await uow.messages.append_many(thread_id, batch)
        await uow.messages.append(thread_id, said("after"))

    page = await persistence.messages.page(thread_id, user_id=user_id)
    assert [one.text for one in page] == ["after"]
    assert [one.key for one in page.corrupt] == [(thread_id, "bad")]


@pytest.mark.parametrize(("column", "sql"), STATES)
async def test_an_unreadable_state_is_reported_and_the_others_are_read(
    persistence: Persistence[str, str], user_id: str, column: str, sql: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    first, bad = [await persistence.states.put(thread_id, n, user_id=user_id) for n in range(2)]
    await run_sql(persistence, change("states", column, sql), key=bad.version)

    page = await persistence.states.page(thread_id, user_id=user_id)

    assert page.items == (first,)
    assert [(one.table, one.key, one.column) for one in page.corrupt] == [("states", (thread_id, bad.version), column)]
    with pytest.raises(CorruptRowError):
        await persistence.states.get(thread_id, user_id=user_id, fresh=True)
    with pytest.raises(CorruptRowError):
        await persistence.states.get_version(thread_id, bad.version, user_id=user_id)

    last = await persistence.states.put(thread_id, 2, expected_version=bad.version, user_id=user_id)
    assert await persistence.states.get(thread_id, user_id=user_id, fresh=True) == last


@pytest.mark.parametrize("sql", ["'0001-01-01 00:00:00.000001Z'", "'9999-12-31 23:59:59.999998Z'"])
async def test_the_first_and_the_last_moment_of_the_calendar_are_read(
    persistence: Persistence[str, str], user_id: str, sql: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    await run_sql(persistence, change("threads", "updated_at", sql), key=thread_id)
    other = await persistence.threads.create(user_id=user_id)

    first = await persistence.threads.page(user_id=user_id, limit=1)
    second = await persistence.threads.page(user_id=user_id, limit=1, after=first.after)

    assert {one.thread_id for one in (*first, *second)} == {thread_id, other.thread_id}
    assert second.after is None
    assert (await persistence.threads.require(thread_id, user_id=user_id)).updated_at.year in (1, 9999)


async def test_a_role_that_a_later_version_added_reads_as_its_label(make_database: Any, user_id: str) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())
    await migrate.upgrade(settings)
    async with Persistence[str, str](settings) as store:
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        await store.messages.append_many(
            thread_id,
            [NewMessage(message=said(n), message_id=f"m{n}") for n in range(2)],
            user_id=user_id,
        )
        await run_sql(store, "ALTER TYPE message_role ADD VALUE 'critic'")
        await run_sql(store, "UPDATE messages SET role = 'critic' WHERE message_id = 'm0'")

        page = await store.messages.page(thread_id, user_id=user_id)

        assert [one.role for one in page] == ["critic", MessageRole.USER]
        assert [one.message for one in page] == [{"role": "critic", "content": "0"}, said(1)]
        assert page.corrupt == ()
        with pytest.raises(IdempotencyConflictError):
            await store.messages.append(thread_id, said(0), message_id="m0", user_id=user_id)
