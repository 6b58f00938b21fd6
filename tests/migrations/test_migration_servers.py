"""Servers that the distribution ships: the oldest PostgreSQL that is supported, and PgBouncer before it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio

from agent_persistence import migrate
from agent_persistence.errors import PoolerError
from agent_persistence.models import build_models
from migration_servers import pgbouncer, postgres_server
from migration_testing import Database, check, with_database
from test_migration_schema import assert_compression

pytestmark = pytest.mark.needs_apt

OLDEST = Path("/usr/lib/postgresql/15/bin")
PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")


@pytest.fixture(scope="module")
def oldest_postgres() -> Iterator[str]:
    if not OLDEST.is_dir():
        pytest.skip(f"{OLDEST} is missing: apt-get install postgresql-15")
    with postgres_server(OLDEST) as url:
        yield url


@pytest_asyncio.fixture
async def old_database(oldest_postgres: str) -> AsyncIterator[Database]:
    administrator = await asyncpg.connect(oldest_postgres)
    await administrator.execute("CREATE DATABASE old")
    yield Database(with_database(oldest_postgres, "old"))
    await administrator.execute("DROP DATABASE old WITH (FORCE)")
    await administrator.close()


@pytest.mark.parametrize(("id_type", "user_id_type", "schema"), [("string", "bigint", None), ("int", "uuid", "own")])
async def test_the_oldest_postgresql_goes_up_down_and_up_again(
    old_database: Database, id_type: str, user_id_type: str, schema: str | None
) -> None:
    settings = old_database.settings(id_type=id_type, user_id_type=user_id_type, db_schema=schema)
    name = schema or "public"

    await migrate.upgrade(settings)
    await check(settings)
    by_the_history = await old_database.dump(name)
    await migrate.downgrade(settings, "base")
    left_over = await old_database.objects(name)
    async with old_database.engine() as engine, engine.begin() as connection:
        await connection.run_sync(build_models(settings.id_types, schema=schema).metadata.create_all)
    by_the_models = await old_database.dump(name)

    assert left_over == []
    assert by_the_history == by_the_models


async def test_the_oldest_postgresql_compresses_with_lz4(old_database: Database) -> None:
    await assert_compression(old_database)


async def test_a_pooler_is_refused_before_anything_is_set(old_database: Database) -> None:
    if PGBOUNCER is None:
        pytest.skip("pgbouncer is missing: apt-get install pgbouncer")
    with pgbouncer(PGBOUNCER, urlsplit(old_database.url).port or 5432) as pooler:
        pooled = Database(with_database(pooler, "old"))
        refused = pooled.settings(db_schema="own")

        with pytest.raises(PoolerError, match="PERSISTENCE_MIGRATION_DATABASE_URL"):
            await migrate.upgrade(refused)
        async with pooled.connected() as client:
            leaked = [
                await client.fetchval(f"SHOW {name}") for name in ("search_path", "client_connection_check_interval")
            ]
        locks = await old_database.value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        objects = await old_database.objects("own")
        direct = pooled.settings(db_schema="own", migration_database_url=old_database.url)
        await migrate.upgrade(direct)
        async with pooled.engine() as engine:
            await migrate.verify(engine, direct)

    assert leaked == ['"$user", public', "0"]
    assert locks == 0
    assert objects == []
    assert await migrate.current(direct) == migrate.head()
