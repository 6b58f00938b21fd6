"""Tables of messages and states that are partitioned by thread: every call works on them as on plain ones.

From PostgreSQL 17 on, which the tests' own server is: before, partitioned tables have no identity columns.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from uuid_utils.compat import uuid7

from agent_persistence import DatabaseError, NewMessage, NewThread, Persistence, StateConflictError, UnitOfWork, migrate
from agent_persistence.models import state_versions
from agent_persistence.settings import PersistenceSettings

Store = Persistence[str, str]
USER = "ann"
HELLO = {"role": "user", "content": "hello"}
COUNT = 16

PARTITION = """
ALTER TABLE {table} RENAME TO plain_{table};
CREATE TABLE {table} (LIKE plain_{table} INCLUDING DEFAULTS INCLUDING IDENTITY INCLUDING CONSTRAINTS INCLUDING INDEXES)
  PARTITION BY HASH (thread_id);
ALTER TABLE {table} ADD FOREIGN KEY (thread_id) REFERENCES threads ON DELETE CASCADE;
DROP TABLE plain_{table} CASCADE;
"""
AFTER = """
ALTER TABLE states ADD FOREIGN KEY (thread_id, base_id) REFERENCES states (thread_id, state_id);
ALTER TABLE state_streams ADD FOREIGN KEY (thread_id, state_id) REFERENCES states ON DELETE CASCADE;
"""


@pytest_asyncio.fixture(scope="module")
async def store(make_database: Callable[[], Awaitable[str]]) -> AsyncIterator[Store]:
    settings = PersistenceSettings(_env_file=None, database_url=await make_database(), patch_states_from=1024)
    await migrate.upgrade(settings)
    plain: Store = Persistence(settings)
    async with plain.engine.begin() as connection:
        for statement in _partitioning():
            await connection.exec_driver_sql(statement)
    await plain.aclose()
    async with Persistence[str, str](settings) as store:
        yield store


def _partitioning() -> list[str]:
    statements = [f"DROP VIEW {state_versions.VIEW}"]
    for table in ("messages", "states"):
        statements += PARTITION.format(table=table).strip().split(";\n")
        statements += [
            f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES WITH (MODULUS {COUNT}, REMAINDER {number})"
            for number in range(COUNT)
        ]
    statements += AFTER.strip().split(";\n")
    created = (state_versions._HANG_GUARD, state_versions._CREATE_VIEW)  # noqa: SLF001 - as create_all makes them
    return [statement.rstrip(";") for statement in [*statements, *(each.format(schema="") for each in created)]]


async def new_thread(store: Store) -> str:
    return (await store.threads.create(user_id=USER)).thread_id


def growing(count: int) -> list[dict[str, Any]]:
    """States of an agent, each with one message more."""
    messages = [{"role": "user", "content": f"{number} " + "x" * 200} for number in range(count)]
    return [{"step": number, "messages": messages[: number + 1]} for number in range(count)]


async def saved(store: Store, count: int) -> tuple[str, list[Any]]:
    thread_id = await new_thread(store)
    return thread_id, [await store.states.put(thread_id, state, user_id=USER) for state in growing(count)]


async def kept_as_changes(store: Store, thread_id: str) -> int:
    async with store.begin(user_id=USER) as uow:
        counted = text("SELECT count(*) FROM states WHERE thread_id = :id AND base_id IS NOT NULL")
        return int((await uow.session.execute(counted, {"id": thread_id})).scalar_one())


async def test_the_check_passes(store: Store) -> None:
    await store.check()


async def test_messages_are_appended_alone_and_again_and_many_at_once(store: Store) -> None:
    thread_id, message_id = await new_thread(store), str(uuid7())

    first = await store.messages.append(thread_id, HELLO, message_id=message_id, user_id=USER)
    again = await store.messages.append(thread_id, HELLO, message_id=message_id, user_id=USER)
    many = await store.messages.append_many(thread_id, [HELLO] * 300, user_id=USER)
    few = await store.messages.append_many(
        thread_id, [NewMessage(message=HELLO, message_id=str(uuid7())) for _ in range(3)], user_id=USER
    )

    assert again == first
    page = await store.messages.page(thread_id, limit=1000, user_id=USER)
    assert list(page) == [first, *many, *few]


async def test_messages_are_read_by_pages_in_the_order_of_their_commits(store: Store) -> None:
    thread_id = await new_thread(store)
    sent = [await store.messages.append(thread_id, {**HELLO, "content": str(n)}, user_id=USER) for n in range(25)]

    last = await store.messages.page(thread_id, limit=10, user_id=USER)
    middle = await store.messages.page(thread_id, limit=10, before=last.before, user_id=USER)
    first = await store.messages.page(thread_id, limit=10, before=middle.before, user_id=USER)

    assert [*first, *middle, *last] == sent
    assert await store.messages.page(thread_id, limit=10, after=first.after, user_id=USER) == middle


async def test_messages_are_changed_and_deleted(store: Store) -> None:
    thread_id = await new_thread(store)
    message = await store.messages.append(thread_id, HELLO, user_id=USER)

    changed = await store.messages.update(thread_id, message.message_id, total_tokens=7, user_id=USER)
    assert (await store.messages.page(thread_id, user_id=USER)).items == (changed,)
    assert await store.messages.delete(thread_id, message.message_id, user_id=USER)
    assert not (await store.messages.page(thread_id, user_id=USER)).items


async def test_growing_states_are_stored_as_changes_and_read_back(store: Store) -> None:
    thread_id, states = await saved(store, 60)

    assert await kept_as_changes(store, thread_id) > 40
    assert await store.states.get(thread_id, user_id=USER) == states[-1]
    assert await store.states.get_version(thread_id, states[7].version, user_id=USER) == states[7]
    page = await store.states.page(thread_id, limit=100, user_id=USER)
    assert [state.data for state in page] == growing(60)[::-1]


async def test_a_state_is_saved_over_an_expected_version_only(store: Store) -> None:
    thread_id, states = await saved(store, 2)

    after = await store.states.put(thread_id, {}, expected_version=states[-1].version, user_id=USER)
    with pytest.raises(StateConflictError):
        await store.states.put(thread_id, {}, expected_version=states[-1].version, user_id=USER)

    assert await store.states.get(thread_id, user_id=USER) == after


async def test_pruning_and_purging_make_what_stays_whole(store: Store) -> None:
    thread_id, states = await saved(store, 20)

    assert await store.states.prune(thread_id, keep_last=5, user_id=USER) == 15
    assert await store.purge(keep_last=2, older_than=datetime.now(UTC)) >= 3
    kept = await store.states.page(thread_id, user_id=USER)

    assert list(kept) == states[:-3:-1]
    assert await store.states.clear(thread_id, user_id=USER) == 2


@pytest.mark.parametrize("change", ["UPDATE states SET state_data = '{}'", "DELETE FROM states"])
async def test_a_base_cannot_be_changed_or_deleted(store: Store, change: str) -> None:
    thread_id, states = await saved(store, 20)
    bases = "SELECT base_id FROM states WHERE thread_id = :id AND base_id IS NOT NULL"

    async def change_bases(uow: UnitOfWork[str, str]) -> None:
        await uow.session.execute(text(f"{change} WHERE thread_id = :id AND state_id IN ({bases})"), {"id": thread_id})

    with pytest.raises(DatabaseError) as caught:
        await store.run(change_bases, user_id=USER)

    assert re.search("later version|foreign key", str(caught.value.__cause__))
    assert await store.states.get(thread_id, user_id=USER) == states[-1]


async def test_a_state_is_streamed_in_and_out(store: Store) -> None:
    thread_id, piece = await new_thread(store), bytes(range(256)) * 2048

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(7):
            yield piece

    streamed = await store.states.put_stream(thread_id, pieces(), user_id=USER)

    read = store.states.open_stream(thread_id, version=streamed.version, user_id=USER)
    assert b"".join([chunk async for chunk in read]) == piece * 7


async def test_threads_are_created_with_all_that_they_hold(store: Store) -> None:
    new = [NewThread(name=str(n), messages=[NewMessage(message=HELLO)] * 3, states=[{"n": n}]) for n in range(5)]

    made = await store.threads.create_many(new, user_id=USER)

    for n, thread_id in enumerate(made):
        assert (await store.states.require(thread_id, user_id=USER)).data == {"n": n}
        assert len((await store.messages.page(thread_id, user_id=USER)).items) == 3


async def test_a_unit_of_work_commits_or_leaves_nothing(store: Store) -> None:
    thread_id = await new_thread(store)

    async with store.begin(user_id=USER) as uow:
        await uow.messages.append(thread_id, HELLO)
        state = await uow.states.put(thread_id, {"n": 1})

    async def fail(uow: UnitOfWork[str, str]) -> None:
        await uow.states.put(thread_id, {"n": 2})
        raise LookupError

    with pytest.raises(LookupError):
        await store.run(fail, user_id=USER)

    assert await store.states.get(thread_id, user_id=USER) == state


async def test_calls_on_many_threads_share_statements(store: Store) -> None:
    threads = [await new_thread(store) for _ in range(8)]

    states = await asyncio.gather(*(store.states.put(thread, growing(3)[2], user_id=USER) for thread in threads))
    await asyncio.gather(*(store.messages.append(thread, HELLO, user_id=USER) for thread in threads))

    read = await asyncio.gather(*(store.states.get(thread, user_id=USER) for thread in threads))
    assert read == states


async def test_a_deleted_thread_takes_its_rows_with_it(store: Store) -> None:
    thread_id, _ = await saved(store, 3)
    await store.messages.append(thread_id, HELLO, user_id=USER)

    assert await store.threads.delete(thread_id, user_id=USER)

    async with store.begin(user_id=USER) as uow:
        for table in ("states", "messages"):
            left = await uow.session.execute(text(f"SELECT 1 FROM {table} WHERE thread_id = :id"), {"id": thread_id})
            assert not left.all()
