"""What a migration refuses, before it touches anything."""

from __future__ import annotations

import io
import subprocess
from contextlib import redirect_stdout
from functools import partial

import pytest
from alembic import command

from agent_persistence import migrate
from agent_persistence.errors import (
    IdTypeMismatchError,
    InvalidInputError,
    SchemaConflictError,
    SchemaError,
    SettingsError,
    UnavailableError,
)
from agent_persistence.migrate.commands import run
from agent_persistence.settings import PersistenceSettings
from migration_testing import VERSION_TABLE, Database, alembic


@pytest.mark.parametrize("variable", ["id_type", "user_id_type"])
@pytest.mark.parametrize("schema", [None, "own"])
async def test_other_id_types_are_refused(database: Database, variable: str, schema: str | None) -> None:
    await migrate.upgrade(database.settings(db_schema=schema))
    before = await database.dump(schema or "public")

    with pytest.raises(IdTypeMismatchError) as refusal:
        await migrate.upgrade(database.settings(db_schema=schema, **{variable: "bigint"}))

    error = refusal.value
    assert (error.variable, error.recorded, error.given) == (f"PERSISTENCE_{variable.upper()}", "string", "bigint")
    assert await database.dump(schema or "public") == before


async def test_a_downgrade_with_other_id_types_is_refused(database: Database) -> None:
    await migrate.upgrade(database.settings())

    with pytest.raises(IdTypeMismatchError):
        await migrate.downgrade(database.settings(id_type="uuid"), "base")

    assert "threads" in await database.objects("public")


async def test_a_script_for_other_id_types_stops(database: Database) -> None:
    await migrate.upgrade(database.settings())
    script = io.StringIO()
    with redirect_stdout(script):
        await alembic(database.settings(id_type="bigint"), partial(command.upgrade, revision="head", sql=True))

    with pytest.raises(subprocess.CalledProcessError) as refusal:
        await database.psql(script.getvalue())

    assert "ERROR:  this script was written for id_type=bigint, user_id_type=string" in refusal.value.stderr
    assert "the database has id_type=string, user_id_type=string" in refusal.value.stderr


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("CREATE TABLE threads (id int)", "threads"),
        ("CREATE VIEW states AS SELECT 1 AS id", "states"),
        ("CREATE SEQUENCE messages", "messages"),
        ("CREATE TABLE persistence_config (setting text)", "persistence_config"),
        ("CREATE TYPE message_role AS ENUM ('bot')", "message_role"),
    ],
)
async def test_an_object_of_another_program_is_refused_by_name(database: Database, statement: str, name: str) -> None:
    await database.execute(statement)
    before = await database.objects("public")

    with pytest.raises(SchemaConflictError, match="PERSISTENCE_DB_SCHEMA") as refusal:
        await migrate.upgrade(database.settings())

    assert refusal.value.names == (name,)
    assert await database.objects("public") == before


@pytest.mark.parametrize(
    "columns",
    [
        "version bigint PRIMARY KEY",  # what other migration tools call it
        "version_num varchar(32) PRIMARY KEY, dirty boolean",
    ],
)
async def test_the_version_table_of_another_tool_is_refused(database: Database, columns: str) -> None:
    await database.execute(f"CREATE TABLE {VERSION_TABLE} ({columns})")
    before = await database.objects("public")

    with pytest.raises(SchemaConflictError, match="PERSISTENCE_VERSION_TABLE") as refusal:
        await migrate.upgrade(database.settings())

    assert refusal.value.names == (VERSION_TABLE,)
    assert await database.objects("public") == before


async def test_the_version_table_of_another_history_is_refused(database: Database) -> None:
    await database.execute(
        f"CREATE TABLE {VERSION_TABLE} (version_num varchar(32) PRIMARY KEY)",
        f"INSERT INTO {VERSION_TABLE} VALUES ('7f3c9a')",
    )

    with pytest.raises(SchemaConflictError, match="PERSISTENCE_VERSION_TABLE"):
        await migrate.upgrade(database.settings())

    assert "threads" not in await database.objects("public")


async def test_another_program_is_no_hindrance_to_a_schema_of_our_own(database: Database) -> None:
    await database.execute("CREATE TABLE threads (id int)", f"CREATE TABLE {VERSION_TABLE} (version bigint)")

    await migrate.upgrade(database.settings(db_schema="own"))

    assert await migrate.current(database.settings(db_schema="own")) == migrate.head()


async def test_a_lost_version_table_can_be_restored(database: Database) -> None:
    settings = database.settings()
    await migrate.upgrade(settings)
    await database.execute(f"DROP TABLE {VERSION_TABLE}")

    with pytest.raises(SchemaError, match="alembic stamp"):
        await migrate.upgrade(settings)
    await alembic(settings, partial(command.stamp, revision="head"))

    assert await migrate.current(settings) == migrate.head()


async def test_a_role_needs_no_right_to_create_schemas_when_it_owns_one(database: Database) -> None:
    role = database.a_role_name()
    await database.execute(
        f"CREATE ROLE {role} LOGIN",
        f"CREATE SCHEMA own AUTHORIZATION {role}",
    )
    settings = database.as_role(role).settings(db_schema="own")

    try:
        await migrate.upgrade(settings)

        assert await migrate.current(settings) == migrate.head()
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_without_an_address_the_variable_is_named() -> None:
    with pytest.raises(SettingsError) as refusal:
        await migrate.upgrade(PersistenceSettings())

    assert refusal.value.variable == "PERSISTENCE_DATABASE_URL"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(UnavailableError):
        await migrate.upgrade(PersistenceSettings(database_url="postgresql://127.0.0.1:1/nothing"))


async def test_an_unknown_revision_is_refused(database: Database) -> None:
    with pytest.raises(SchemaError, match="nonsense"):
        await migrate.upgrade(database.settings(), "nonsense")


async def test_a_connection_inside_a_transaction_is_refused(database: Database) -> None:
    settings = database.settings()

    async with database.engine() as engine, engine.begin() as connection:
        with pytest.raises(InvalidInputError, match="transaction"):
            await run(connection, migrate.alembic_config(settings), partial(command.upgrade, revision="head"))


async def test_a_connection_that_was_handed_over_comes_back_as_it_was(database: Database) -> None:
    settings = database.settings(db_schema="own")

    async with database.engine() as engine, engine.connect() as connection:
        await run(connection, migrate.alembic_config(settings), partial(command.upgrade, revision="head"))
        left = [
            (await connection.exec_driver_sql(f"SHOW {name}")).scalar()
            for name in ("search_path", "statement_timeout", "client_connection_check_interval")
        ]
        locks = (await connection.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")).scalar()
        default_schema = connection.dialect.default_schema_name

    assert left == ['"$user", public', "0", "0"]
    assert locks == 0
    assert default_schema == "public"
