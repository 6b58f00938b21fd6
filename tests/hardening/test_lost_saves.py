"""A save that commits by itself, and whose reply is lost: its state is found by its mark, or saved again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import NEVER_ARRIVED, REPLY_LOST, LossyProxy, Store, migrated_settings, settings_of
from sqlalchemy import make_url, text
from torture.proxy import Link, Proxy
from torture.servers import PostgreSQL

from agent_persistence.database import server_process
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.database.server_process import ServerProcess, has_ended, process_behind
from agent_persistence.errors import CommitUnknownError
from agent_persistence.operations import group_commit

USER = "ann"
MARKED = b"what a save says"
SAYING = {"said": MARKED.decode()}
Two = tuple[PinnedConnection, PinnedConnection]
NO_SAVE_RUNS = (
    "SELECT 1 WHERE NOT EXISTS ("
    "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'WITH locked%INTO states%')"
)


@pytest_asyncio.fixture(scope="module", params=["string", "bigint"])
async def proxied(request: Any, postgresql: PostgreSQL) -> AsyncIterator[tuple[Store, LossyProxy]]:
    """A store without a cache: its saves commit by themselves."""
    direct = await migrated_settings(postgresql, id_type=request.param)
    assert direct.database is not None
    async with LossyProxy(postgresql) as proxy:
        name = str(direct.database.sqlalchemy_url.database)
        settings = settings_of(proxy.port, name, id_type=request.param, pool_size=1, max_overflow=0)
        async with Store(settings) as store:
            yield store, proxy
            assert await all_are_back(store)


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(10):
        while not await holds():  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


async def is_waiting(connection: PinnedConnection) -> bool:
    return bool((await connection.connection.exec_driver_sql("SELECT 1 FROM pg_locks WHERE NOT granted")).all())


async def new_thread(store: Store) -> Any:
    return (await store.threads.create(user_id=USER)).thread_id


async def states_of(store: Store, thread_id: Any) -> list[Any]:
    return list(await store.states.page(thread_id, user_id=USER, limit=100))


@pytest.mark.parametrize("fate", [REPLY_LOST, NEVER_ARRIVED])
async def test_a_state_is_saved_once_and_its_caller_is_told_its_version(
    proxied: tuple[Store, LossyProxy], fate: str
) -> None:
    store, proxy = proxied
    thread_id = await new_thread(store)
    first = await store.states.put(thread_id, {}, user_id=USER)

    async with proxy.losing_a_commit(fate, of=MARKED):
        saved = await store.states.put(thread_id, SAYING, user_id=USER)

    assert await states_of(store, thread_id) == [saved, first]


@pytest.mark.parametrize("fate", [REPLY_LOST, NEVER_ARRIVED])
async def test_states_that_shared_a_statement_are_saved_once_each(proxied: tuple[Store, LossyProxy], fate: str) -> None:
    store, proxy = proxied
    threads = [await new_thread(store) for _ in range(12)]

    async with proxy.losing_a_commit(fate, of=MARKED):
        saved = await asyncio.gather(*(store.states.put(thread, SAYING, user_id=USER) for thread in threads))

    assert [await states_of(store, thread) for thread in threads] == [[state] for state in saved]


@pytest.mark.parametrize("fate", [REPLY_LOST, NEVER_ARRIVED])
async def test_a_state_that_is_stored_as_a_change_is_saved_once(proxied: tuple[Store, LossyProxy], fate: str) -> None:
    store, proxy = proxied
    thread_id = await new_thread(store)
    large = {"text": "x" * 20_000}
    await store.states.put(thread_id, large, user_id=USER)

    async with proxy.losing_a_commit(fate, of=MARKED):
        saved = [await store.states.put(thread_id, {**large, **SAYING}, user_id=USER)]
    saved.append(await store.states.put(thread_id, {**large, **SAYING, "more": 1}, user_id=USER))

    assert (await states_of(store, thread_id))[:2] == saved[::-1]


async def delete_all(store: Store, thread_id: Any) -> None:
    await store.states.clear(thread_id, user_id=USER)


async def save_another_and_delete_the_older(store: Store, thread_id: Any) -> None:
    await store.states.put(thread_id, "another", user_id=USER)
    await store.states.prune(thread_id, keep_last=1, user_id=USER)


async def purge(store: Store, thread_id: Any) -> None:
    await store.states.put(thread_id, "another", user_id=USER)
    await store.purge(keep_last=1)


@asynccontextmanager
async def deleting_before_the_search(
    monkeypatch: pytest.MonkeyPatch, store: Store, port: int, delete: Callable[[Store], Awaitable[None]]
) -> AsyncIterator[None]:
    """Another process deletes something after a reply was lost, and before the state is looked for."""
    values = store.settings.model_dump(exclude_unset=True)
    url = make_url(values["database_url"].get_secret_value()).set(port=port)
    values["database_url"] = url.render_as_string(hide_password=False)
    async with Store(type(store.settings)(_env_file=None, **values)) as other:

        async def has_ended_late(connection: PinnedConnection, process: ServerProcess) -> bool:
            monkeypatch.undo()
            await delete(other)
            return await has_ended(connection, process)

        monkeypatch.setattr(group_commit, "has_ended", has_ended_late)
        yield


@pytest.mark.parametrize("delete", [delete_all, save_another_and_delete_the_older, purge])
async def test_a_state_that_was_deleted_before_it_was_looked_for_is_not_saved_again(
    proxied: tuple[Store, LossyProxy],
    postgresql: PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
    delete: Callable[[Store, Any], Awaitable[None]],
) -> None:
    store, proxy = proxied
    thread_id = await new_thread(store)

    async with (
        deleting_before_the_search(monkeypatch, store, postgresql.port, partial(delete, thread_id=thread_id)),
        proxy.losing_a_commit(REPLY_LOST, of=MARKED),
    ):
        with pytest.raises(CommitUnknownError):
            await store.states.put(thread_id, SAYING, user_id=USER)

    assert SAYING not in [state.data for state in await states_of(store, thread_id)]


async def test_of_states_that_shared_a_statement_only_a_deleted_one_is_in_doubt(
    proxied: tuple[Store, LossyProxy], postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, proxy = proxied
    threads = [await new_thread(store) for _ in range(6)]

    async def save_all() -> list[Any]:
        saves = (store.states.put(thread, SAYING, user_id=USER) for thread in threads)
        return await asyncio.gather(*saves, return_exceptions=True)

    await save_all()  # a crowd, after which the next one is one batch
    async with (
        deleting_before_the_search(monkeypatch, store, postgresql.port, partial(delete_all, thread_id=threads[0])),
        proxy.losing_a_commit(REPLY_LOST, of=MARKED),
    ):
        first, *others = await save_all()

    assert isinstance(first, CommitUnknownError)
    assert await states_of(store, threads[0]) == []
    assert [(await states_of(store, thread))[0] for thread in threads[1:]] == others


async def test_a_deletion_of_older_states_leaves_no_doubt_while_one_is_left(
    proxied: tuple[Store, LossyProxy],
) -> None:
    store, proxy = proxied
    thread_id = await new_thread(store)
    states = [await store.states.put(thread_id, number, user_id=USER) for number in range(3)]
    await store.states.prune(thread_id, keep_last=1, user_id=USER)

    async with proxy.losing_a_commit(NEVER_ARRIVED, of=MARKED):
        saved = await store.states.put(thread_id, SAYING, user_id=USER)

    assert await states_of(store, thread_id) == [saved, states[-1]]


async def test_a_deletion_of_long_ago_leaves_no_doubt(proxied: tuple[Store, LossyProxy]) -> None:
    store, proxy = proxied
    thread_id = await new_thread(store)
    await store.states.put(thread_id, {}, user_id=USER)
    await store.states.clear(thread_id, user_id=USER)
    async with store.begin(user_id=USER) as uow:
        long_ago = "UPDATE threads SET states_deleted_at = states_deleted_at - interval '1 hour' WHERE thread_id = :id"
        changed = await uow.session.execute(text(f"{long_ago} RETURNING states_deleted_at"), {"id": thread_id})
        assert changed.scalar_one() is not None

    async with proxy.losing_a_commit(NEVER_ARRIVED, of=MARKED):
        saved = await store.states.put(thread_id, SAYING, user_id=USER)

    assert await states_of(store, thread_id) == [saved]


async def test_a_save_that_is_late_on_its_way_is_never_executed(
    short_limits: Any, messages: Proxy, postgresql: PostgreSQL
) -> None:
    """A network that holds a request back, longer than its caller waits for the reply."""
    arrived, may_go_on = asyncio.Event(), asyncio.Event()

    async def hold(_link: Link) -> None:
        arrived.set()
        await may_go_on.wait()

    async with Store(short_limits) as store:
        thread_id = await new_thread(store)
        await store.states.put(thread_id, {}, user_id=USER)  # prepares the statement, and names the server's process
        messages.trap(1, hold)
        saving = asyncio.create_task(store.states.put(thread_id, SAYING, user_id=USER))
        await arrived.wait()
        saved = await saving
        may_go_on.set()
        await store.states.put(thread_id, {}, user_id=USER)
        await until(lambda: postgresql.fetch(NO_SAVE_RUNS))

        assert [state.data for state in await states_of(store, thread_id)] == [{}, SAYING, {}]
        assert (await states_of(store, thread_id))[1] == saved


@pytest_asyncio.fixture
async def two_connections(
    proxied: tuple[Store, LossyProxy],
) -> AsyncIterator[tuple[PinnedConnection, PinnedConnection]]:
    values = proxied[0].settings.model_dump(exclude_unset=True) | {"pool_size": 2}
    async with Store(type(proxied[0].settings)(_env_file=None, **values)) as store:
        connections = store._sessions.connections  # noqa: SLF001 - what is below every call
        async with connections.use() as one, connections.use() as other:
            yield one, other


async def test_an_idle_process_is_ended_and_has_ended_when_asked_again(
    two_connections: Two,
) -> None:
    one, other = two_connections
    process = await process_behind(other)
    assert process is not None

    await until(lambda: has_ended(one, process))


async def test_a_process_that_still_works_is_left_alone(
    two_connections: Two,
) -> None:
    """It may wait for a synchronous standby: if it were ended, its commit would count although it can still be lost."""
    one, other = two_connections
    process = await process_behind(other)
    assert process is not None
    await one.begin()
    await one.connection.exec_driver_sql("SELECT pg_advisory_lock(1)")
    waiting = asyncio.create_task(other.connection.exec_driver_sql("SELECT pg_advisory_lock(1)"))
    await until(lambda: is_waiting(one))

    assert [await has_ended(one, process) for _ in range(3)] == [False] * 3

    await one.connection.exec_driver_sql("SELECT pg_advisory_unlock(1)")
    await waiting
    await one.rollback()


async def test_a_process_with_the_number_of_another_one_is_not_ended(
    two_connections: Two,
) -> None:
    one, other = two_connections
    process = await process_behind(other)
    assert process is not None

    assert await has_ended(one, process._replace(started=process.started.replace(year=2001)))
    assert await process_behind(other) == process
    assert await other.fetch(server_process._OWN)  # noqa: SLF001 - any statement


async def test_where_the_process_cannot_be_known_a_save_is_a_transaction(
    proxied: tuple[Store, LossyProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler tells the driver another number than the process has."""
    store, proxy = proxied
    await store.engine.dispose()
    monkeypatch.setattr(PinnedConnection, "server_pid", 1)
    thread_id = await new_thread(store)

    async with proxy.losing_a_commit(REPLY_LOST):
        saved = await store.states.put(thread_id, SAYING, user_id=USER)

    assert await states_of(store, thread_id) == [saved]
    monkeypatch.undo()
    await store.engine.dispose()
