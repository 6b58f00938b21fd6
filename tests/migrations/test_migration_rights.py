"""Rights that the role of an application lacks: each is named with its GRANT, by the application and by ``doctor``."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agent_persistence import migrate
from agent_persistence.cli.checkup import examine_database
from agent_persistence.cli.finding import Level
from agent_persistence.errors import DatabaseError, MissingRightsError, NotMigratedError, SchemaError, UnavailableError
from agent_persistence.migrate.catalog import OTHER_RIGHTS, RIGHTS
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from migration_testing import Database
from test_migration_verify import documented_grants

OTHER_TABLES = [table for table in OTHER_RIGHTS if not table.startswith("opt_")]
WRITE_TABLES = sorted(table for table, rights in RIGHTS.items() if "INSERT" in rights and table != "threads")


@pytest_asyncio.fixture
async def role(database: Database) -> AsyncIterator[str]:
    role = database.a_role_name()
    await database.execute(f"CREATE ROLE {role} LOGIN")
    yield role
    await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def grants_of_integrations(role: str) -> list[str]:
    return [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO {role}" for table in OTHER_TABLES]


async def doctor(settings: PersistenceSettings) -> dict[str, tuple[Level, str | None]]:
    """The worst finding on each subject."""
    store = Persistence[str, str](settings)
    try:
        findings = await examine_database(store.engine, settings)
    finally:
        await store.aclose()
    by_level = sorted(findings, key=lambda finding: [*Level].index(finding.level))
    return {finding.subject: (finding.level, finding.remedy) for finding in by_level}


async def test_the_documented_rights_are_enough(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(*documented_grants(role), *grants_of_integrations(role))
    settings = database.as_role(role).settings()

    async with Persistence[str, str](settings) as store:
        await store.threads.create(user_id="ann")

    assert (await doctor(settings))["rights"] == (Level.OK, None)


@pytest.mark.parametrize("table", [*WRITE_TABLES, "state_versions"])
async def test_a_forgotten_grant_is_named_at_start_and_by_the_doctor(database: Database, role: str, table: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(*documented_grants(role), f"REVOKE ALL ON {table} FROM {role}")
    settings = database.as_role(role).settings()

    with pytest.raises(MissingRightsError) as refusal:
        await Persistence[str, str](settings).__aenter__()
    level, remedy = (await doctor(settings))["rights"]
    await database.execute(refusal.value.command)
    async with Persistence[str, str](settings):
        pass

    assert (level, remedy) == (Level.FAIL, f"psql: {refusal.value.command}")
    assert f'"{table}"' in refusal.value.command


@pytest.mark.parametrize("table", OTHER_TABLES)
async def test_a_right_that_only_an_integration_needs_is_a_warning(database: Database, role: str, table: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(
        *documented_grants(role), *grants_of_integrations(role), f"REVOKE DELETE ON {table} FROM {role}"
    )
    settings = database.as_role(role).settings()

    async with Persistence[str, str](settings):
        pass

    assert (await doctor(settings))["rights"] == (Level.WARN, f'psql: GRANT DELETE ON "public"."{table}" TO "{role}";')


async def test_sequences_that_the_role_may_not_read_are_a_warning(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(*documented_grants(role), f"REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM {role}")
    settings = database.as_role(role).settings()

    level, remedy = (await doctor(settings))["sequences"]
    assert level is Level.WARN
    assert remedy is not None
    await database.execute(remedy.removeprefix("psql: "))

    assert (await doctor(settings))["sequences"] == (Level.OK, None)


async def test_a_role_that_only_reads_may_open_a_store(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(
        f"GRANT USAGE ON SCHEMA public TO {role}", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"
    )

    async with Persistence[str, str](database.as_role(role).settings()) as store:
        assert len(await store.threads.page(user_id="ann")) == 0
        with pytest.raises(DatabaseError, match="threads.*42501.*doctor names the GRANT") as refusal:
            await store.threads.create(user_id="ann")

    assert refusal.value.sqlstate == "42501"


@pytest.mark.parametrize("redis_url", [None, "redis://127.0.0.1:1/0"], ids=["no cache", "cache"])
async def test_no_usage_of_the_schema_is_named(database: Database, role: str, redis_url: str | None) -> None:
    settings = database.settings(db_schema="own")
    await migrate.upgrade(settings)
    theirs = database.as_role(role).settings(db_schema="own", redis_url=redis_url)

    for attempt in (Persistence[str, str](theirs).__aenter__, lambda: migrate.upgrade(theirs)):
        with pytest.raises(MissingRightsError) as refusal:
            await attempt()
        assert refusal.value.command == f'GRANT USAGE ON SCHEMA "own" TO "{role}";'
    assert (await doctor(theirs))["rights"] == (Level.FAIL, refusal.value.command)


async def test_a_migration_by_another_role_than_the_owner_says_so(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings(), "ap0009")
    await database.execute(
        f"GRANT USAGE ON SCHEMA public TO {role}", f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
    )

    with pytest.raises(DatabaseError, match="must be owner of .*42501.*run it as the owner of the tables"):
        await migrate.upgrade(database.as_role(role).settings())


async def test_a_role_at_its_connection_limit_is_told_of_the_limit(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(*documented_grants(role), f"ALTER ROLE {role} CONNECTION LIMIT 0")
    settings = database.as_role(role).settings(retry_deadline=0)

    with pytest.raises(UnavailableError, match="no more connections.*CONNECTION LIMIT"):
        await Persistence[str, str](settings).__aenter__()
    assert (await doctor(settings))["database"] == (Level.FAIL, None)


async def test_a_search_path_without_a_usable_schema_is_named(database: Database, role: str) -> None:
    theirs = database.as_role(role).settings()
    await database.execute("REVOKE ALL ON SCHEMA public FROM public")

    for attempt in (Persistence[str, str](theirs).__aenter__, lambda: migrate.upgrade(theirs)):
        with pytest.raises(SchemaError, match="may use no schema of its search path"):
            await attempt()


async def test_no_right_to_create_is_named_before_anything_is_created(database: Database, role: str) -> None:
    await database.execute(f"GRANT USAGE ON SCHEMA public TO {role}")

    with pytest.raises(MissingRightsError) as refusal:
        await migrate.upgrade(database.as_role(role).settings())
    await database.execute(refusal.value.command)
    await migrate.upgrade(database.as_role(role).settings())

    assert refusal.value.command == f'GRANT USAGE, CREATE ON SCHEMA "public" TO "{role}";'


async def test_a_schema_of_the_roles_name_does_not_hide_the_tables(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(f"CREATE SCHEMA {role} AUTHORIZATION {role}", *documented_grants(role))

    with pytest.raises(NotMigratedError, match="schema public has it: set PERSISTENCE_DB_SCHEMA") as refusal:
        await Persistence[str, str](database.as_role(role).settings()).__aenter__()

    assert refusal.value.elsewhere == ("public",)
    async with Persistence[str, str](database.as_role(role).settings(db_schema="public")):
        pass


async def test_transactions_that_are_read_only_by_default_are_named(database: Database, role: str) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(*documented_grants(role), f"ALTER ROLE {role} SET default_transaction_read_only = on")
    settings = database.as_role(role).settings(retry_deadline=0)

    async with Persistence[str, str](settings) as store:
        with pytest.raises(UnavailableError, match="default_transaction_read_only"):
            await store.threads.create(user_id="ann")
    level, remedy = (await doctor(settings))["database"]

    assert (level, remedy) == (Level.FAIL, f'psql: ALTER ROLE "{role}" SET default_transaction_read_only = off;')
