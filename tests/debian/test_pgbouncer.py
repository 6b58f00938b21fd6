"""PgBouncer in transaction mode, with fewer connections to the server than there are clients."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from alembic import command
from asyncpg import DuplicatePreparedStatementError, InvalidSQLStatementNameError, PostgresError
from integrations.tenants import CALLS, HELLO, begin_all, rows_of, told
from migrations.migration_servers import pgbouncer
from migrations.migration_testing import alembic, later_history, later_revision, with_database
from pydantic import SecretStr
from sqlalchemy import text

from agent_persistence import migrate
from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.database.driver_errors import translate
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import NotMigratedError, PoolerError, UnavailableError
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from pooled_clients import SHARED_USER

pytestmark = pytest.mark.needs_apt

PROGRAM = Path(__file__).with_name("pooled_clients.py")
SERVER_CONNECTIONS = 2


@pytest.fixture(scope="module")
def pooler(pgbouncer_program: str, servers: EmbeddedServers) -> Iterator[str]:
    """The address of a PgBouncer before the embedded PostgreSQL."""
    [server] = DatabaseUrl.parse(servers.database_url, "servers").hosts
    with pgbouncer(
        pgbouncer_program, server.port or 5432, server_host=server.name, server_connections=SERVER_CONNECTIONS
    ) as url:
        yield url


@pytest_asyncio.fixture
async def direct_url(make_database: Callable[[], Awaitable[str]]) -> str:
    """An empty database, by the address of its server."""
    return await make_database()


@pytest.fixture
def pooled(pooler: str, direct_url: str) -> PersistenceSettings:
    """The settings of that database by the address of the pooler."""
    database = DatabaseUrl.parse(direct_url, "server").database or ""
    return PersistenceSettings(_env_file=None, database_url=with_database(pooler, database), pgbouncer=True)


@pytest_asyncio.fixture
async def migrated(pooled: PersistenceSettings, direct_url: str) -> PersistenceSettings:
    await migrate.upgrade(changed(pooled, migration_database_url=direct_url))
    return pooled


def changed(settings: PersistenceSettings, **values: Any) -> PersistenceSettings:
    return PersistenceSettings(_env_file=None, **settings.model_dump(exclude_unset=True), **values)


@asynccontextmanager
async def two_processes(
    shared_thread: str, pooled: PersistenceSettings, redis_url: str, folder: Path
) -> AsyncIterator[list[Process]]:
    """Clients at work behind the pooler, in two processes."""
    assert pooled.database_url is not None
    settings = {
        "DATABASE_URL": pooled.database_url.get_secret_value(),
        "PGBOUNCER": "true",
        "REDIS_URL": redis_url,
        "CACHE_NAMESPACE": shared_thread,
        "CACHE_TIMEOUT_MS": "2000",
        "CACHE_BUDGET_MS": "4000",
    }
    environment = os.environ | {f"PERSISTENCE_{name}": value for name, value in settings.items()}
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, PROGRAM, name, shared_thread), cwd=folder, env=environment, stdin=PIPE, stdout=PIPE
        )
        for name in ("a", "b")
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"started\n"
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def statements_left(store: Persistence[str, str]) -> list[int]:
    """How many prepared statements each connection to the server has."""
    left = text("SELECT pg_backend_pid() AS server, (SELECT count(*) FROM pg_prepared_statements) AS statements")
    async with store.engine.connect() as one, store.engine.connect() as other:
        rows = [(await connection.execute(left)).one() for connection in (one, other)]
    assert len({row.server for row in rows}) == SERVER_CONNECTIONS
    return [row.statements for row in rows]


async def end(process: Process) -> int:
    """Let the clients of a process finish their round; returns how many rounds they made."""
    output, _ = await process.communicate(b"")  # and the end of its input
    assert process.returncode == 0
    return int(output)


@pytest.mark.slow
async def test_every_framework_works_behind_it_as_without_it(migrated: PersistenceSettings, direct_url: str) -> None:
    direct = PersistenceSettings(_env_file=None, database_url=direct_url)
    async with Persistence[Any, Any](migrated) as pooled, Persistence[Any, Any](direct) as unpooled:
        await begin_all(pooled, "ada", "at")
        before = await rows_of(unpooled, ["ada"])
        for name, call in CALLS.items():
            assert await told(call(pooled, "eve", "at"), "at") == await told(call(unpooled, "eve", "at"), "at"), name
        assert await rows_of(unpooled, ["ada"]) == before

        await asyncio.gather(
            *(PersistenceSession("new", persistence=pooled, user_id="ada").add_items([HELLO]) for _ in range(20))
        )
        assert len(await PersistenceSession("new", persistence=pooled, user_id="ada").get_items()) == 20


@pytest.mark.slow
async def test_two_processes_use_the_whole_api_while_the_database_is_migrated(
    migrated: PersistenceSettings, direct_url: str, servers: EmbeddedServers, tmp_path: Path
) -> None:
    direct = changed(migrated, migration_database_url=direct_url)
    later = later_history(
        tmp_path,
        "op.add_column('messages', sa.Column('note', sa.Text()))",
        "operations.create_index_concurrently('opt_messages_note', 'messages', ['note'])",
    )
    async with Persistence[str, str](migrated) as store:
        shared = (await store.threads.create(user_id=SHARED_USER)).thread_id
        await store.states.put(shared, 0, user_id=SHARED_USER)
        async with two_processes(shared, migrated, servers.redis_url, tmp_path) as processes:
            with pytest.raises(PoolerError, match="PERSISTENCE_MIGRATION_DATABASE_URL"):
                await migrate.upgrade(changed(migrated, db_schema="second"))
            await migrate.upgrade(changed(direct, db_schema="second"))
            await alembic(direct, partial(command.upgrade, revision="head"), ini=later)
            rounds = sum(await asyncio.gather(*map(end, processes)))
        counted = (await store.states.require(shared, user_id=SHARED_USER)).data
        async with store.engine.connect() as connection:
            messages = await connection.scalar(text("SELECT count(*) FROM messages"))
        left = await statements_left(store)

    assert left == [0, 0]
    assert counted == messages == rounds
    assert await migrate.current(changed(direct, db_schema="second")) == migrate.head()
    assert await migrate.current(direct) == later_revision(2)


@pytest.mark.parametrize("server_connections", [1, 20])
async def test_a_pooler_that_keeps_a_connection_for_each_client_is_no_hindrance(
    pgbouncer_program: str, servers: EmbeddedServers, direct_url: str, server_connections: int
) -> None:
    [server] = DatabaseUrl.parse(servers.database_url, "servers").hosts
    database = DatabaseUrl.parse(direct_url, "server").database or ""
    with pgbouncer(
        pgbouncer_program,
        server.port or 5432,
        server_host=server.name,
        server_connections=server_connections,
        mode="session",
    ) as pooler:
        settings = PersistenceSettings(_env_file=None, database_url=with_database(pooler, database))
        await migrate.upgrade(settings)

        assert await migrate.current(settings) == migrate.head()


async def test_the_check_at_the_start_works_through_the_pooler(pooled: PersistenceSettings, direct_url: str) -> None:
    store = Persistence[str, str](pooled)

    with pytest.raises(NotMigratedError):
        await store.check()
    await migrate.upgrade(changed(pooled, migration_database_url=direct_url))

    await store.check()
    await store.aclose()


async def test_no_statement_stays_behind_on_the_connections_of_the_server(migrated: PersistenceSettings) -> None:
    async with Persistence[str, str](migrated) as store:
        for _ in range(5):
            thread = await store.threads.create(user_id="ada")
            await store.states.put(thread.thread_id, 1, user_id="ada")
            await store.states.get(thread.thread_id, user_id="ada")

        left = await statements_left(store)

    assert left == [0, 0]


async def test_without_a_pooler_in_between_statements_stay_prepared(
    migrated: PersistenceSettings, direct_url: str
) -> None:
    direct = migrated.model_copy(update={"database_url": SecretStr(direct_url), "pgbouncer": False})
    async with Persistence[str, str](direct) as store, store.engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        left = text("SELECT statement FROM pg_prepared_statements")

        statements = set((await connection.execute(left)).scalars())

    assert "SELECT 1" in statements


async def test_the_owner_is_named_for_the_transaction_and_for_nobody_after_it(migrated: PersistenceSettings) -> None:
    named = text("SELECT pg_backend_pid() AS server, current_setting('agent_persistence.user_id', true) AS owner")
    async with Persistence[str, str](changed(migrated, row_level_security=True)) as store:
        owners: set[str] = set()
        for owner in ("ada", "eve"):
            async with store.begin(user_id=owner) as uow:
                await uow.threads.page()
                owners.add((await uow.session.execute(named)).one().owner)

        async with store.engine.connect() as one, store.engine.connect() as other:
            after = [(await connection.execute(named)).one() for connection in (one, other)]

    assert owners == {"ada", "eve"}
    assert len({row.server for row in after}) == SERVER_CONNECTIONS
    assert not any(row.owner for row in after)


async def test_of_two_stores_behind_a_pooler_one_purges(migrated: PersistenceSettings) -> None:
    settings = changed(migrated, max_checkpoint_history=1, checkpoint_cleanup_interval=0.05)
    async with Persistence[str, str](migrated) as store:
        thread = await store.threads.create(user_id="ada")
        for number in range(5):
            await store.states.put(thread.thread_id, number, user_id="ada")

        async with Persistence[str, str](settings), Persistence[str, str](settings), asyncio.timeout(10):
            while len(await store.states.page(thread.thread_id, user_id="ada")) > 1:  # noqa: ASYNC110 - nobody is told
                await asyncio.sleep(0.01)

        async with store.engine.connect() as connection:
            jobs = (await connection.execute(text("SELECT job FROM persistence_jobs"))).scalars().all()
    assert jobs == ["purge"]


async def test_without_the_setting_the_first_connection_is_refused_and_the_setting_named(
    migrated: PersistenceSettings,
) -> None:
    store = Persistence[str, str](migrated.model_copy(update={"pgbouncer": False}))

    with pytest.raises(UnavailableError, match="PERSISTENCE_PGBOUNCER=true"):
        await store.check()

    await store.aclose()


@pytest.mark.parametrize("error", [InvalidSQLStatementNameError, DuplicatePreparedStatementError])
def test_what_prepared_statements_come_to_behind_a_pooler_names_the_setting(error: type[PostgresError]) -> None:
    assert "PERSISTENCE_PGBOUNCER=true" in str(translate(error("prepared statement")))
