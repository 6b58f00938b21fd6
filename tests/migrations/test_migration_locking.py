"""Many at once, and alongside live traffic."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from alembic import command

from agent_persistence import migrate
from agent_persistence.errors import (
    InvalidIndexError,
    MigrationLockTimeoutError,
    StatementTimeoutError,
    UnavailableError,
    UniqueConflictError,
)
from agent_persistence.migrate import environment
from agent_persistence.migrate.lock import lock_key
from migration_testing import VERSION_TABLE, Database, Process, alembic, later_history, later_revision

ROUNDS = int(os.environ.get("TEST_MIGRATION_ROUNDS", "3"))
PROCESSES = 8
UPGRADE_AT_ONCE = Path(__file__).with_name("upgrade_at_once.py")
BUILD_INDEX = "operations.create_index_concurrently('ix_messages_role', 'messages', ['role'])"
ADD_COLUMN = "op.add_column('messages', sa.Column('later', sa.Text()))"


@pytest.mark.slow
@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_eight_processes_at_once_upgrade_a_database(database: Database, tmp_path: Path, round_: int) -> None:
    schema = [None, "own"][round_ % 2]
    ini = later_history(tmp_path, BUILD_INDEX)
    env = {"PERSISTENCE_DATABASE_URL": database.url} | ({"PERSISTENCE_DB_SCHEMA": schema} if schema else {})
    if round_ % 3 == 2:  # every third is not empty, but a revision behind
        await migrate.upgrade(database.settings(db_schema=schema))

    processes = await Process.start(str(UPGRADE_AT_ONCE), str(ini), str(PROCESSES), cwd=tmp_path, env=env)
    await processes.wait()

    assert processes.output.endswith(f"{[0] * PROCESSES}\n"), processes.output
    assert await database.values(f"SELECT version_num FROM {schema or 'public'}.{VERSION_TABLE}") == [later_revision()]
    assert await database.values("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid") == []


async def test_without_the_lock_two_upgrades_collide(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "migration_lock", lambda *_, **__: nullcontext())

    async with database.connected() as first, first.transaction():
        await first.execute("CREATE TABLE persistence_config (key text, value text)")
        second = asyncio.create_task(migrate.upgrade(database.settings(migration_ddl_lock_timeout_ms=60_000)))
        await _until_somebody_waits(database)

    with pytest.raises(UniqueConflictError):
        await second


async def test_waiting_for_the_lock_holds_nothing_up_and_hinders_nobody(database: Database) -> None:
    settings = database.settings()

    async with database.connected() as other:
        await _take_lock(other)
        upgrade = asyncio.create_task(migrate.upgrade(settings))
        turns, snapshots = 0, []
        while len(snapshots) < 20:
            turns += 1
            await asyncio.sleep(0)  # a turn of the loop: it goes on while the upgrade waits
            snapshots += await other.fetch(
                "SELECT backend_xmin, state FROM pg_stat_activity "
                "WHERE query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid() AND datname = current_database()"
            )
        still_waiting = not upgrade.done()
        await other.execute("SELECT pg_advisory_unlock_all()")
    await upgrade

    assert still_waiting
    assert turns >= 20
    assert not [row for row in snapshots if row["state"] == "idle in transaction" and row["backend_xmin"] is not None]
    assert await migrate.current(settings) == migrate.head()


async def test_waiting_for_the_lock_has_an_end(database: Database) -> None:
    async with database.connected() as other:
        await _take_lock(other)

        with pytest.raises(MigrationLockTimeoutError, match="PERSISTENCE_MIGRATION_LOCK_TIMEOUT"):
            await migrate.upgrade(database.settings(migration_lock_timeout=0.3))

    assert await database.objects("public") == []


async def test_upgrades_of_one_process_take_turns(database: Database) -> None:
    everything = [database.settings(db_schema=f"schema_{number}") for number in range(3)]

    await asyncio.gather(*(migrate.upgrade(settings) for settings in everything))

    assert [await migrate.current(settings) for settings in everything] == [migrate.head()] * 3


async def test_a_reader_of_a_table_stalls_the_migration_but_no_other_reader(database: Database, tmp_path: Path) -> None:
    settings = database.settings(migration_ddl_lock_timeout_ms=100)
    await migrate.upgrade(settings)
    ini = later_history(tmp_path, ADD_COLUMN)

    with _retries() as (retried_twice, _):
        async with database.connected() as reader, reader.transaction():
            await reader.fetch("SELECT * FROM messages")
            upgrade = asyncio.create_task(alembic(settings, partial(command.upgrade, revision="head"), ini=ini))
            latencies = await _latencies_until(database, retried_twice)
            assert not upgrade.done()
        await upgrade

    assert max(latencies) < 1.0
    assert await migrate.current(settings) == later_revision()


async def test_a_table_that_is_never_free_ends_the_migration(database: Database, tmp_path: Path) -> None:
    settings = database.settings(migration_ddl_lock_timeout_ms=50, migration_lock_timeout=0.1)
    await migrate.upgrade(settings)
    ini = later_history(tmp_path, ADD_COLUMN)

    async with database.connected() as reader, reader.transaction():
        await reader.fetch("SELECT * FROM messages")
        with pytest.raises(StatementTimeoutError, match="PERSISTENCE_MIGRATION_LOCK_TIMEOUT"):
            await alembic(settings, partial(command.upgrade, revision="head"), ini=ini)

    assert await migrate.current(settings) == migrate.head()


async def test_a_cancelled_upgrade_leaves_no_lock_and_no_session(database: Database, tmp_path: Path) -> None:
    settings = database.settings(migration_ddl_lock_timeout_ms=60_000)
    await migrate.upgrade(settings)
    ini = later_history(tmp_path, ADD_COLUMN)

    async with database.connected() as reader, reader.transaction():
        await reader.fetch("SELECT * FROM messages")
        upgrade = asyncio.create_task(alembic(settings, partial(command.upgrade, revision="head"), ini=ini))
        await _until_somebody_waits(database)
        upgrade.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upgrade
    await _until(database, _OTHER_SESSIONS, lambda count: count == 0)
    await alembic(settings, partial(command.upgrade, revision="head"), ini=ini)

    assert await migrate.current(settings) == later_revision()


async def test_a_migration_whose_connection_dies_is_unavailable(database: Database, tmp_path: Path) -> None:
    settings = database.settings(migration_ddl_lock_timeout_ms=60_000)
    await migrate.upgrade(settings)
    ini = later_history(tmp_path, ADD_COLUMN)

    async with database.connected() as reader, reader.transaction():
        await reader.fetch("SELECT * FROM messages")
        upgrade = asyncio.create_task(alembic(settings, partial(command.upgrade, revision="head"), ini=ini))
        await _until_somebody_waits(database)
        await database.execute(f"SELECT pg_terminate_backend(pid) FROM ({_WAITERS}) AS waiters")
        with pytest.raises(UnavailableError):
            await upgrade

    assert await migrate.current(settings) == migrate.head()


async def test_time_limits_of_the_role_do_not_bind_a_migration(database: Database, tmp_path: Path) -> None:
    name = await database.value("SELECT current_database()")
    await migrate.upgrade(database.settings())
    await database.execute(f"ALTER DATABASE {name} SET statement_timeout = '100ms'")
    ini = later_history(tmp_path, "op.execute('SELECT pg_sleep(0.3)')")

    await alembic(database.settings(migration_lock_timeout=0), partial(command.upgrade, revision="head"), ini=ini)

    assert await migrate.current(database.settings()) == later_revision()


async def test_a_migration_that_was_killed_while_it_built_an_index_is_finished_by_the_next(
    database: Database, tmp_path: Path
) -> None:
    settings = database.settings()
    await migrate.upgrade(settings)
    ini = later_history(tmp_path, BUILD_INDEX)

    async with database.connected() as reader, reader.transaction(isolation="repeatable_read"):
        await reader.fetch("SELECT * FROM messages")  # its snapshot is what the build waits for
        killed = await _start_upgrade(ini, {"PERSISTENCE_DATABASE_URL": database.url})
        await _until_somebody_waits(database)
        killed.process.kill()
        await killed.wait()
        await _until_nobody_waits(database)  # the server noticed that its client is gone
        async with database.engine() as engine:
            with pytest.raises(InvalidIndexError) as refusal:
                await migrate.verify(engine, settings)
    await alembic(settings, partial(command.upgrade, revision="head"), ini=ini)

    assert refusal.value.names == ("ix_messages_role",)
    assert await migrate.current(settings) == later_revision()
    assert await database.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_messages_role'::regclass")


async def test_an_index_that_is_being_built_is_no_leftover(database: Database, tmp_path: Path) -> None:
    settings = database.settings()
    await migrate.upgrade(settings)
    ini = later_history(tmp_path, BUILD_INDEX)

    async with database.connected() as reader, database.engine() as engine:
        async with reader.transaction(isolation="repeatable_read"):
            await reader.fetch("SELECT * FROM messages")
            build = asyncio.create_task(alembic(settings, partial(command.upgrade, revision="head"), ini=ini))
            await _until_somebody_waits(database)

            await migrate.verify(engine, settings)

            assert not build.done()
        await build


async def _start_upgrade(ini: Path, env: dict[str, str]) -> Process:
    return await Process.start("-m", "alembic", "-c", str(ini), "upgrade", "head", cwd=ini.parent, env=env)


async def _take_lock(connection: asyncpg.Connection) -> None:
    await connection.execute("SELECT pg_advisory_lock($1::bigint)", lock_key("public", VERSION_TABLE))


async def _latencies_until(database: Database, event: asyncio.Event) -> list[float]:
    """Read the table like a request would, again and again."""
    latencies = []
    async with asyncio.timeout(15), database.connected() as connection:
        while not event.is_set():
            started = time.perf_counter()
            await connection.fetch("SELECT * FROM messages LIMIT 1")
            latencies.append(time.perf_counter() - started)
    return latencies


@contextmanager
def _retries() -> Iterator[tuple[asyncio.Event, list[str]]]:
    """An event that is set when a migration has given up a lock for the second time."""
    twice, messages = asyncio.Event(), list[str]()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())
            if len(messages) > 1:
                twice.set()

    logger, listener = logging.getLogger("agent_persistence"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield twice, messages
    logger.removeHandler(listener)
    logger.setLevel(level)


_WAITERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
_WAITING = f"SELECT count(*) FROM ({_WAITERS}) AS waiters"
_OTHER_SESSIONS = """
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def _until_somebody_waits(database: Database) -> None:
    await _until(database, _WAITING, lambda count: count > 0)


async def _until_nobody_waits(database: Database) -> None:
    await _until(database, _WAITING, lambda count: count == 0)


async def _until(database: Database, query: str, holds: Any) -> None:
    async with asyncio.timeout(30), database.connected() as connection:
        while not holds(await connection.fetchval(query)):  # noqa: ASYNC110  # the event is the server's
            await asyncio.sleep(0.01)
