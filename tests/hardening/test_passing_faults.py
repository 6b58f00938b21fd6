"""Deadlocks, plans from before a migration, servers that turn read-only, stalls before COMMIT: they pass unnoticed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from connections import all_are_back
from hardening.hardening_servers import errors_of_the_driver
from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.util import await_only

from agent_persistence import migrate
from agent_persistence.database.driver_errors import sqlstate_of
from agent_persistence.errors import DatabaseError, StatementTimeoutError, UnavailableError
from agent_persistence.operations import session_factory
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Store = Persistence[str, str]
HELLO = {"role": "user", "content": "hello"}
DYING = (
    "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END'"
)


@pytest_asyncio.fixture
async def settings(make_database: Callable[[], Awaitable[str]], servers: Any) -> PersistenceSettings:
    """A database that the test may change, and what waits as briefly as a test wants it to."""
    url = await make_database()
    settings = PersistenceSettings(
        _env_file=None,
        database_url=url,
        redis_url=servers.redis_url,
        cache_namespace=url.partition("?")[0],
        cache_timeout_ms=2_000,
        cache_budget_ms=4_000,
        cache_sweep_interval=3_600,
    )
    await migrate.upgrade(settings)
    return settings


@pytest_asyncio.fixture
async def store(settings: PersistenceSettings) -> AsyncIterator[Store]:
    async with Store(settings) as store:
        yield store
        assert await all_are_back(store)


async def change(store: Store, *statements: str) -> None:
    """Change the database as somebody else would, by a connection of one's own."""
    other = Store(store.settings)
    async with other.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement.replace("THE_DATABASE", f'"{store.engine.url.database}"')))
    await other.aclose()


async def test_the_victim_of_a_deadlock_is_run_again_and_both_succeed(store: Store, user_id: str) -> None:
    await change(store, "ALTER DATABASE THE_DATABASE SET deadlock_timeout = '50ms'")
    await store.engine.dispose()
    one, other = [(await store.threads.create(user_id=user_id)).thread_id for _ in range(2)]
    both_hold_one, runs = asyncio.Barrier(2), 0

    async def append_to(first: str, second: str) -> None:
        async def work(uow: UnitOfWork[str, str]) -> None:
            nonlocal runs
            runs += 1
            await uow.messages.append(first, HELLO)
            if runs <= 2:
                await both_hold_one.wait()
            await uow.messages.append(second, HELLO)

        await store.run(work, user_id=user_id)

    with errors_of_the_driver() as errors:
        await asyncio.gather(append_to(one, other), append_to(other, one))

    assert errors == ["DeadlockDetectedError"]
    assert runs == 3
    assert [len(await store.messages.page(thread_id, user_id=user_id)) for thread_id in (one, other)] == [2, 2]


@pytest.mark.parametrize("by", ["a call", "run"])
async def test_a_plan_from_before_a_migration_is_no_caller_s_concern(store: Store, user_id: str, by: str) -> None:
    thread = await store.threads.create(user_id=user_id, name="kept")

    all_read = asyncio.Barrier(3)

    async def read_beside_others(uow: UnitOfWork[str, str]) -> Any:
        found = await uow.threads.get(thread.thread_id)
        await all_read.wait()  # so that each of them has a connection of its own, and each connection the plan
        return found

    async def read() -> Any:
        if by == "run":
            return await store.run(read_beside_others, user_id=user_id)
        return await store.threads.get(thread.thread_id, user_id=user_id)

    await asyncio.gather(read(), read(), read())
    await change(store, "ALTER TABLE threads ALTER COLUMN thread_name TYPE text")

    with errors_of_the_driver() as errors:
        threads = await asyncio.gather(read(), read(), read())

    assert threads == [thread] * 3
    # Outside a transaction the driver prepares the statement anew by itself.
    assert set(errors) == ({"InvalidCachedStatementError"} if by == "run" else set())


async def test_a_check_right_after_a_restart_does_not_trip_over_the_connections_from_before(store: Store) -> None:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    await asyncio.gather(*(store.health() for _ in range(3)))
    await change(store, f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {others}")

    with errors_of_the_driver() as errors:
        await store.check()

    assert len(errors) == 1


async def test_connections_to_a_server_that_takes_no_writes_are_given_up(store: Store, user_id: str) -> None:
    await change(store, "ALTER DATABASE THE_DATABASE SET default_transaction_read_only = on")
    await store.engine.dispose()
    await asyncio.gather(*(store.threads.page(user_id=user_id) for _ in range(3)))
    assert await all_are_back(store)
    await change(store, "SET TRANSACTION READ WRITE", "ALTER DATABASE THE_DATABASE RESET default_transaction_read_only")

    with errors_of_the_driver() as errors:
        made = await store.threads.create(user_id=user_id)

    assert (await store.threads.page(user_id=user_id)).items == (made,)
    assert errors == ["ReadOnlySQLTransactionError"]


async def test_what_is_lost_before_commit_is_sent_is_not_called_unknown(store: Store, user_id: str) -> None:
    """The host's own objects are written when the block ends, right before COMMIT."""
    await change(
        store,
        DYING,
        "CREATE TRIGGER dies BEFORE INSERT ON threads FOR EACH ROW EXECUTE FUNCTION die()",
    )

    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            uow.session.add(store.models.Thread(thread_id="new", user_id=user_id))

    with pytest.raises(UnavailableError) as caught:
        await work()

    assert caught.value.committed == "no"
    assert await store.threads.get("new", user_id=user_id) is None


async def test_what_the_outbox_loses_before_commit_is_sent_is_not_called_unknown(
    store: Store, user_id: str, unused_tcp_port: int
) -> None:
    """Redis cannot be told of a state that the host wrote, and the connection breaks when that is noted down."""
    thread_id = (await store.threads.create(user_id=user_id)).thread_id
    await change(store, DYING, "CREATE TRIGGER dies BEFORE INSERT ON cache_outbox FOR EACH ROW EXECUTE FUNCTION die()")
    values = store.settings.model_dump(exclude_unset=True) | {"redis_url": f"redis://127.0.0.1:{unused_tcp_port}/0"}

    async def work() -> None:
        async with without_redis.begin(user_id=user_id) as uow:
            uow.session.add(store.models.State(thread_id=thread_id, state_data="new"))

    async with Store(PersistenceSettings(_env_file=None, **values)) as without_redis:
        with pytest.raises(UnavailableError) as caught:
            await work()

    assert caught.value.committed == "no"
    assert await store.states.get(thread_id, user_id=user_id, fresh=True) is None


async def test_what_could_not_even_be_sent_is_not_called_unknown(user_id: str, unused_tcp_port: int) -> None:
    """The host's own objects are the first to need a connection, when the block ends."""
    url = f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/nowhere"
    store = Store(PersistenceSettings(_env_file=None, database_url=url))

    async def work() -> None:
        async with store.begin(user_id=user_id) as uow:
            uow.session.add(store.models.Thread(thread_id="new", user_id=user_id))

    with pytest.raises(UnavailableError) as caught:
        await work()

    assert caught.value.committed == "no"
    await store.aclose()


@contextmanager
def stalled_before_commit(engine: AsyncEngine, observer: Store) -> Iterator[list[str]]:
    """Let nothing happen between the cache's quarantine and the first COMMIT, until the server ends the session.

    Collects the limit that the server had been told.
    """
    limits: list[str] = []

    def stall(connection: Connection) -> None:
        if not limits:
            own = connection.exec_driver_sql(
                "SELECT current_setting('idle_in_transaction_session_timeout'), pg_backend_pid()"
            )
            limit, pid = own.one()
            limits.append(limit)
            await_only(until_it_is_ended(observer, pid))

    event.listen(engine.sync_engine, "commit", stall)
    yield limits
    event.remove(engine.sync_engine, "commit", stall)


async def until_it_is_ended(observer: Store, pid: int) -> None:
    async with asyncio.timeout(10), observer.engine.connect() as connection:
        while (await connection.execute(text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid})
               ).scalar_one():  # fmt: skip
            await connection.rollback()


@pytest_asyncio.fixture
async def hurried(settings: PersistenceSettings) -> AsyncIterator[Store]:
    """A store whose transactions may idle for a tenth of a second."""
    values = settings.model_dump(exclude_unset=True) | {"idle_in_transaction_timeout": 0.1}
    async with Store(PersistenceSettings(_env_file=None, **values)) as store:
        yield store


async def test_a_unit_of_work_that_stalls_before_its_commit_is_ended_by_the_server(
    hurried: Store, store: Store, user_id: str
) -> None:
    thread_id = (await store.threads.create(user_id=user_id)).thread_id

    async def put() -> None:
        async with hurried.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, "late")

    with stalled_before_commit(hurried.engine, store) as limits, pytest.raises(UnavailableError) as caught:
        await put()

    assert limits == ["100ms"]
    assert caught.value.committed == "no"
    assert await store.states.get(thread_id, user_id=user_id, fresh=True) is None


async def test_a_call_that_stalls_before_its_commit_is_made_again(hurried: Store, store: Store, user_id: str) -> None:
    thread_id = (await store.threads.create(user_id=user_id)).thread_id

    with stalled_before_commit(hurried.engine, store) as limits:
        made = await hurried.states.put(thread_id, "late", user_id=user_id)

    assert limits == ["100ms"]
    assert (await store.states.page(thread_id, user_id=user_id)).items == (made,)


# --- what a function that ``run`` calls meets by itself ---


async def test_a_connection_that_the_hosts_own_sql_loses_is_replaced_and_the_function_run_again(
    store: Store, user_id: str
) -> None:
    runs = 0

    async def work(uow: UnitOfWork[str, str]) -> Any:
        nonlocal runs
        runs += 1
        thread = await uow.threads.create()
        if runs == 1:
            await uow.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return thread

    made = await store.run(work, user_id=user_id)

    assert runs == 2
    assert (await store.threads.page(user_id=user_id)).items == (made,)


async def test_a_mistake_in_the_hosts_own_sql_is_an_error_of_ours_and_not_made_twice(
    store: Store, user_id: str
) -> None:
    runs = 0

    async def work(uow: UnitOfWork[str, str]) -> None:
        nonlocal runs
        runs += 1
        await uow.session.execute(text("SELECT FROM 1"))

    with pytest.raises(DatabaseError) as caught:
        await store.run(work, user_id=user_id)

    assert (runs, caught.value.sqlstate) == (1, "42601")


@pytest.mark.parametrize("then", ["writes again", "is done"])
async def test_a_function_that_idles_for_too_long_is_called_once(
    hurried: Store, store: Store, user_id: str, then: str
) -> None:
    runs = 0

    async def work(uow: UnitOfWork[str, str]) -> None:
        nonlocal runs
        runs += 1
        await uow.threads.create()
        await until_it_is_ended(store, (await uow.session.execute(text("SELECT pg_backend_pid()"))).scalar_one())
        if then == "writes again":
            await uow.threads.create()

    with pytest.raises(StatementTimeoutError):
        await hurried.run(work, user_id=user_id)

    assert runs == 1
    assert (await store.threads.page(user_id=user_id)).items == ()


@pytest_asyncio.fixture
async def host_s_engine(settings: PersistenceSettings) -> AsyncIterator[AsyncEngine]:
    """An engine without limits of its own."""
    url = settings.database
    assert url is not None
    engine = create_async_engine(url.sqlalchemy_url, connect_args=url.connect_args)
    yield engine
    await engine.dispose()


async def put_by_a_store_on_it(engine: AsyncEngine, store: Store, user_id: str, thread_id: str) -> None:
    async with Store(store.settings, engine=engine) as host, host.begin(user_id=user_id) as uow:
        await uow.states.put(thread_id, "late")


async def put_by_a_session_of_the_host(engine: AsyncEngine, store: Store, user_id: str, thread_id: str) -> None:
    async with AsyncSession(engine) as session:
        await store.bind(session, user_id=user_id).states.put(thread_id, "late")
        await session.commit()


@pytest.mark.parametrize("put", [put_by_a_store_on_it, put_by_a_session_of_the_host])
async def test_on_an_engine_of_the_host_s_a_stall_before_commit_is_ended_as_well_and_the_limit_is_gone_afterwards(
    host_s_engine: AsyncEngine, store: Store, user_id: str, put: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_factory, "LONGEST_IDLE", 0.1)
    thread_id = (await store.threads.create(user_id=user_id)).thread_id

    with stalled_before_commit(host_s_engine, store) as limits:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - the host's commit raises the driver's error
            await put(host_s_engine, store, user_id, thread_id)
        await host_s_engine.dispose()  # SQLAlchemy 2.0 may not have noticed that the connection was closed
        await put(host_s_engine, store, user_id, thread_id)

    async with host_s_engine.connect() as connection:
        after = (await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")).scalar_one()
    assert sqlstate_of(caught.value) in {None, "25P03"}
    assert (limits, after) == (["100ms"], "0")
    assert len(await store.states.page(thread_id, user_id=user_id)) == 1
