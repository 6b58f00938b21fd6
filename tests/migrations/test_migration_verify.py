"""What an application is told about its database at start."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from agent_persistence import migrate
from agent_persistence.errors import IdTypeMismatchError, InvalidIndexError, NotMigratedError, SchemaError
from agent_persistence.migrate import config
from agent_persistence.settings import PersistenceSettings
from migration_testing import REPOSITORY, VERSION_TABLE, Database, later_history, later_revision


async def verify(database: Database, settings: PersistenceSettings) -> None:
    async with database.engine() as engine:
        await migrate.verify(engine, settings)


@pytest.mark.parametrize("schema", [None, "own"])
async def test_a_database_at_the_head_is_fine(database: Database, schema: str | None) -> None:
    settings = database.settings(db_schema=schema, id_type="uuid", user_id_type="int")
    await migrate.upgrade(settings)

    await verify(database, settings)


async def test_a_connection_is_as_good_as_an_engine(database: Database) -> None:
    await migrate.upgrade(database.settings())

    async with database.engine() as engine, engine.connect() as connection:
        await migrate.verify(connection, database.settings())
        at = await migrate.current(database.settings(), connection)

    assert at == migrate.head()


async def test_an_empty_database_is_refused_with_the_command(database: Database) -> None:
    with pytest.raises(NotMigratedError, match="agent-persistence upgrade") as refusal:
        await verify(database, database.settings())

    assert (refusal.value.current, refusal.value.head) == (None, migrate.head())
    assert await migrate.current(database.settings()) is None


async def test_a_downgraded_database_is_refused(database: Database) -> None:
    await migrate.upgrade(database.settings())
    await migrate.downgrade(database.settings(), "base")

    with pytest.raises(NotMigratedError):
        await verify(database, database.settings())


async def test_the_history_of_another_program_is_not_taken_for_ours(database: Database) -> None:
    await database.execute(
        f"CREATE TABLE {VERSION_TABLE} (version_num varchar(32) PRIMARY KEY)",
        f"INSERT INTO {VERSION_TABLE} VALUES ('7f3c9a')",
    )

    with pytest.raises(NotMigratedError):
        await verify(database, database.settings())


async def test_a_database_behind_is_refused(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate.upgrade(database.settings())
    shipped = migrate.head()
    ini = later_history(tmp_path, "pass")
    monkeypatch.setattr(config, "alembic_ini", lambda: ini)
    monkeypatch.setattr(config, "history", config.history.__wrapped__)

    with pytest.raises(NotMigratedError, match=f"at revision {shipped}, this version needs {later_revision()}"):
        await verify(database, database.settings())


async def test_a_database_ahead_passes_with_a_warning(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    settings = database.settings()
    await migrate.upgrade(settings)
    await database.execute(f"UPDATE {VERSION_TABLE} SET version_num = 'ap9999'")

    with caplog.at_level(logging.WARNING, "agent_persistence"):
        await verify(database, settings)
        await migrate.upgrade(settings)

    warnings = [record.getMessage() for record in caplog.records if record.name == "agent_persistence"]
    assert len(warnings) == 2
    assert all("ap9999" in warning and migrate.head() in warning for warning in warnings)
    assert await migrate.current(settings) == "ap9999"


async def test_the_role_of_an_application_needs_no_more_than_the_documented_grants(database: Database) -> None:
    settings = database.settings(id_type="bigint")
    await migrate.upgrade(settings)
    role = database.a_role_name()
    await database.execute(f"CREATE ROLE {role} LOGIN", *documented_grants(role))
    application = database.as_role(role)

    try:
        await verify(application, application.settings(id_type="bigint"))
        await application.execute(
            "INSERT INTO threads (user_id) VALUES ('ada')",
            "INSERT INTO states (thread_id, state_data) SELECT thread_id, '{}' FROM threads FOR NO KEY UPDATE",
        )

        assert await application.value("SELECT count(*) FROM states") == 1
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def documented_grants(role: str) -> list[str]:
    document = (REPOSITORY / "docs" / "howto" / "migrations.md").read_text()
    grants = re.findall(r"^GRANT .*;$", document, re.MULTILINE)
    return [grant.replace("TO application", f"TO {role}") for grant in grants]


@pytest.mark.parametrize("variable", ["id_type", "user_id_type"])
async def test_other_id_types_are_refused(database: Database, variable: str) -> None:
    await migrate.upgrade(database.settings())

    with pytest.raises(IdTypeMismatchError) as refusal:
        await verify(database, database.settings(**{variable: "uuid"}))

    assert refusal.value.variable == f"PERSISTENCE_{variable.upper()}"


async def test_a_column_that_was_altered_by_hand_is_refused(database: Database) -> None:
    await migrate.upgrade(database.settings(user_id_type="int"))
    await database.execute("ALTER TABLE threads ALTER COLUMN user_id TYPE bigint")

    with pytest.raises(IdTypeMismatchError) as refusal:
        await verify(database, database.settings(user_id_type="int"))

    assert (refusal.value.recorded, refusal.value.given) == ("bigint", "int")


async def test_a_table_that_was_dropped_by_hand_is_named(database: Database) -> None:
    await migrate.upgrade(database.settings())
    await database.execute("DROP TABLE states CASCADE")

    with pytest.raises(SchemaError, match=r"states\.thread_id is missing"):
        await verify(database, database.settings())


async def test_an_unfinished_index_is_refused_by_name(database: Database) -> None:
    await migrate.upgrade(database.settings())
    await database.execute(
        "CREATE INDEX opt_messages_role ON messages (role)",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'opt_messages_role'::regclass",
    )

    with pytest.raises(InvalidIndexError) as refusal:
        await verify(database, database.settings())

    assert refusal.value.names == ("opt_messages_role",)
