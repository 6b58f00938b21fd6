"""Optional objects: added to a database that is in use, used by the queries that they are for, taken away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event

from agent_persistence import migrate
from agent_persistence.errors import (
    InvalidIndexError,
    InvalidInputError,
    MigrationLockTimeoutError,
    NotMigratedError,
    SchemaError,
    StatementTimeoutError,
)
from agent_persistence.migrate.lock import lock_key
from agent_persistence.migrate.optional import OBJECTS
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER
from agent_persistence.settings import PersistenceSettings
from migration_testing import VERSION_TABLE, Database, check

KINDS = {
    "string": ("'t1'", "'ada'", "'eve'"),
    "int": ("1", "7", "8"),
    "bigint": ("1", "7", "8"),
    "uuid": tuple(f"'00000000-0000-0000-0000-00000000000{n}'" for n in (1, 7, 8)),
}
"""A thread, its owner, and somebody else."""


async def filled(database: Database, kind: str = "string", **values: Any) -> PersistenceSettings:
    """A migrated database with a thread of each table."""
    settings = database.settings(id_type=kind, user_id_type=kind, **values)
    thread, owner, _ = KINDS[kind]
    await migrate.upgrade(settings)
    path = f'SET search_path = "{settings.db_schema or "public"}"; '
    await database.execute(
        f"{path} INSERT INTO threads (thread_id, user_id) VALUES ({thread}, {owner}); "
        f"INSERT INTO states (thread_id, state_data) VALUES ({thread}, '1'); "
        f"INSERT INTO messages (thread_id, message_id, role, content) VALUES ({thread}, {thread}, 'user', 'hello')"
    )
    return settings


async def add(settings: PersistenceSettings, name: str) -> None:
    await migrate.add_optional(settings, name, dims=3 if OBJECTS[name].has_dims else None)


@pytest.mark.parametrize("name", OBJECTS)
async def test_each_is_added_and_taken_away_without_a_trace(database: Database, name: str) -> None:
    settings = await filled(database)
    before = await database.dump("public")

    for _ in range(2):
        await add(settings, name)
    added = await migrate.list_optional(settings)
    with_it = await database.dump("public")
    for _ in range(2):
        await migrate.remove_optional(settings, name)

    assert added == {other: other == name for other in OBJECTS}
    assert all("opt_" in statement or "ROW LEVEL SECURITY" in statement for statement in set(with_it) - set(before))
    assert await database.dump("public") == before
    assert not any((await migrate.list_optional(settings)).values())


@pytest.mark.parametrize(
    ("kind", "schema"), [("string", None), ("string", "Own"), ("int", "Own"), ("bigint", None), ("uuid", "Own")]
)
async def test_with_all_of_them_the_check_is_clean(database: Database, kind: str, schema: str | None) -> None:
    settings = await filled(database, kind, db_schema=schema)

    for name in OBJECTS:
        await add(settings, name)

    await check(settings)
    async with database.engine() as engine:
        await migrate.verify(engine, settings)
    assert all((await migrate.list_optional(settings)).values())
    assert await database.value(f'SELECT count(*) FROM "{schema or "public"}".messages') == 1


async def test_a_name_that_is_none_is_refused_with_those_that_there_are(database: Database) -> None:
    with pytest.raises(InvalidInputError, match="message-search, thread-search, thread-meta"):
        await migrate.add_optional(database.settings(), "search")


async def test_an_empty_database_is_refused(database: Database) -> None:
    with pytest.raises(NotMigratedError):
        await migrate.add_optional(database.settings(), "outside-writes")


async def test_nothing_is_added_while_a_migration_runs(database: Database) -> None:
    settings = await filled(database, migration_lock_timeout=0)

    async with database.connected() as migration:
        await migration.execute(f"SELECT pg_advisory_lock({lock_key('public', VERSION_TABLE)})")
        with pytest.raises(MigrationLockTimeoutError):
            await migrate.add_optional(settings, "row-level-security")


async def test_an_extension_that_the_server_lacks_is_named(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = await filled(database)
    monkeypatch.setitem(OBJECTS, "message-search", replace(OBJECTS["message-search"], extension="no_such_extension"))

    with pytest.raises(SchemaError, match="no_such_extension, which this server does not have; install"):
        await migrate.add_optional(settings, "message-search")


async def test_a_role_that_may_not_create_the_extension_is_told_who_may(database: Database) -> None:
    role = database.a_role_name()
    await database.execute(
        f"CREATE ROLE {role} LOGIN",
        f"CREATE SCHEMA own AUTHORIZATION {role}",
        f"GRANT USAGE ON SCHEMA public TO {role}",
    )
    settings = database.as_role(role).settings(db_schema="own")
    try:
        await migrate.upgrade(settings)

        with pytest.raises(SchemaError, match="have an administrator run: CREATE EXTENSION pg_trgm"):
            await migrate.add_optional(settings, "message-search")
        await database.execute("CREATE EXTENSION pg_trgm")
        await migrate.add_optional(settings, "message-search")

        assert (await migrate.list_optional(settings))["message-search"]
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_an_interrupted_build_is_refused_at_the_start_and_mended_by_adding_again(database: Database) -> None:
    settings = await filled(database, migration_lock_timeout=0)
    build = "FROM pg_stat_progress_create_index WHERE datname = current_database() AND phase ~ 'waiting'"

    async with database.connected() as writer, writer.transaction():
        await writer.execute("UPDATE threads SET thread_name = 'the build waits for this'")
        adding = asyncio.create_task(migrate.add_optional(settings, "thread-meta"))
        while not await database.values(f"SELECT pg_cancel_backend(pid) {build}"):  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.01)
        with pytest.raises(StatementTimeoutError):
            await adding
    async with database.engine() as engine:
        with pytest.raises(InvalidIndexError, match="opt_threads_meta"):
            await migrate.verify(engine, settings)
        await migrate.add_optional(settings, "thread-meta")

        await migrate.verify(engine, settings)


# --- searches ---

_MANY = """
INSERT INTO threads (thread_id, user_id, thread_name, meta)
SELECT 'b' || n, 'busy', 'About ' || md5(n::text), jsonb_build_object('number', n) FROM generate_series(1, 5000) AS n;
INSERT INTO messages (thread_id, message_id, role, content)
SELECT 'b1', n, 'user', repeat(md5(n::text) || ' said the fox ', 8) FROM generate_series(1, 5000) AS n;
ANALYZE;
"""
RARE = "A87FF679A2F3E71D"  # of md5('4')

SEARCHES: dict[str, tuple[str, Callable[[Persistence[str, str]], Awaitable[Any]]]] = {
    "message-search": ("opt_messages_content", lambda store: store.messages.page("b1", search=RARE, user_id="busy")),
    "thread-search": ("opt_threads_thread_name", lambda store: store.threads.page(search=RARE, user_id="busy")),
    "thread-search of everybody": (
        "opt_threads_thread_name",
        lambda store: store.threads.page(search=RARE, user_id=ANY_USER),
    ),
    "thread-meta": ("opt_threads_meta", lambda store: store.threads.page(meta={"number": 4}, user_id="busy")),
}


@pytest_asyncio.fixture
async def searched(database: Database) -> AsyncIterator[Persistence[str, str]]:
    settings = await filled(database)
    await database.execute(_MANY)
    async with Persistence[str, str](settings) as store:
        yield store


@pytest.mark.parametrize("search", SEARCHES)
async def test_a_search_for_something_rare_is_served_by_its_index(searched: Persistence[str, str], search: str) -> None:
    index, call = SEARCHES[search]
    found = await call(searched)

    await migrate.add_optional(searched.settings, search.split(maxsplit=1)[0])

    assert index in json.dumps(await plan_of(searched, call))
    assert (await call(searched)).items == found.items
    assert len(found.items) == 1


async def plan_of(store: Persistence[str, str], call: Callable[[Persistence[str, str]], Awaitable[Any]]) -> Any:
    """The plan of the statement that a call sends."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    event.listen(store.engine.sync_engine, "before_cursor_execute", note)
    await call(store)
    event.remove(store.engine.sync_engine, "before_cursor_execute", note)
    [(statement, parameters)] = sent
    async with store.engine.connect() as connection:
        return (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()


# --- writes from outside ---


WRITES = {
    "INSERT INTO states (thread_id, state_data) VALUES ({thread}, '2')": ["{owner}"],
    "UPDATE states SET state_data = '2'": ["{owner}"],
    "DELETE FROM states": ["{owner}"],
    "UPDATE threads SET thread_name = 'renamed', updated_at = now()": [],
    "UPDATE threads SET user_id = {other}": ["{owner}", "{other}"],
    "DELETE FROM threads": ["{other}"],
}


@pytest.mark.parametrize("kind", KINDS)
async def test_what_others_write_stands_in_the_outbox(database: Database, kind: str) -> None:
    settings = await filled(database, kind)
    words = dict(zip(("thread", "owner", "other"), KINDS[kind], strict=True))
    await migrate.add_optional(settings, "outside-writes")

    for write, owners in WRITES.items():
        await database.execute("DELETE FROM cache_outbox", write.format(**words))

        found = await database.values("SELECT DISTINCT (thread_id, user_id)::text FROM cache_outbox")
        expected = {f"({words['thread']},{owner.format(**words)})".replace("'", "") for owner in owners}
        assert set(found) == expected, write


async def test_who_keeps_the_caches_protocol_writes_nothing_into_the_outbox(database: Database) -> None:
    settings = await filled(database)
    await migrate.add_optional(settings, "outside-writes")

    await database.execute(
        "SET agent_persistence.keeps_cache = 'on'; UPDATE states SET state_data = '2'; DELETE FROM threads"
    )

    assert await database.values("SELECT 1 FROM cache_outbox") == []


async def test_whoever_writes_needs_no_right_on_the_outbox(database: Database) -> None:
    settings = await filled(database)
    await migrate.add_optional(settings, "outside-writes")
    role = database.a_role_name()
    await database.execute(
        "CREATE TABLE users (name varchar(255) COLLATE \"C\" PRIMARY KEY); INSERT INTO users VALUES ('ada')",
        "ALTER TABLE threads ADD FOREIGN KEY (user_id) REFERENCES users ON DELETE CASCADE",
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA public TO {role}; GRANT SELECT, DELETE ON users TO {role}",
        f"GRANT INSERT ON states TO {role}",
    )
    try:
        await database.as_role(role).execute("INSERT INTO states (thread_id, state_data) VALUES ('t1', '2')")
        await database.as_role(role).execute("DELETE FROM users")  # which cascades to threads, and to states

        assert await database.values("SELECT (thread_id, user_id)::text FROM cache_outbox") == ["(t1,ada)"] * 2
        assert await database.values("SELECT 1 FROM states") == []
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_the_triggers_find_the_owner_under_row_level_security_and_show_nobody_else_more(
    database: Database,
) -> None:
    role = database.a_role_name()
    await database.execute(f"CREATE ROLE {role} LOGIN", f"GRANT ALL ON SCHEMA public TO {role}")
    try:
        settings = await filled(database.as_role(role))
        for name in ("row-level-security", "outside-writes"):
            await migrate.add_optional(settings, name)
        async with database.as_role(role).connected() as connection, connection.transaction():
            await connection.execute("SELECT set_config('agent_persistence.user_id', 'ada', true)")
            await connection.execute("UPDATE states SET state_data = '2'")
            await connection.execute("SELECT set_config('agent_persistence.user_id', 'eve', true)")
            seen = await connection.fetchval("SELECT count(*) FROM threads")

        await database.execute("DELETE FROM states")  # by an administrator, who names no owner

        assert seen == 0
        assert await database.values("SELECT (thread_id, user_id)::text FROM cache_outbox") == ["(t1,ada)"] * 2
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_nobody_hangs_the_triggers_on_a_table_of_their_own(database: Database) -> None:
    settings = await filled(database)
    await migrate.add_optional(settings, "outside-writes")
    role = database.a_role_name()
    await database.execute(f"CREATE ROLE {role} LOGIN", f"GRANT USAGE ON SCHEMA public TO {role}")
    forgery = "CREATE TRIGGER forged AFTER INSERT ON own FOR EACH ROW EXECUTE FUNCTION opt_tell_cache_of_thread()"
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await database.as_role(role).execute(f"CREATE TEMP TABLE own (thread_id text, user_id text); {forgery}")
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


async def test_only_tables_without_rows_of_an_owner_are_without_policies(database: Database) -> None:
    settings = await filled(database)

    await migrate.add_optional(settings, "row-level-security")

    unprotected = await database.values(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace "
        "AND NOT relforcerowsecurity ORDER BY relname"
    )
    assert unprotected == ["cache_outbox", "persistence_config", "persistence_jobs", "schema_migrations"]


async def test_policies_of_the_host_keep_the_tables_shut(database: Database) -> None:
    settings = await filled(database)
    await migrate.add_optional(settings, "row-level-security")
    await database.execute("CREATE POLICY of_the_host ON threads USING (false)")

    await migrate.remove_optional(settings, "row-level-security")

    shut = await database.values("SELECT relname::text FROM pg_class WHERE relrowsecurity")
    assert shut == ["threads"]


# --- vectors ---


async def test_vectors_have_the_dimensions_with_which_they_were_added(database: Database) -> None:
    settings = await filled(database)
    with pytest.raises(InvalidInputError, match="dims: is missing"):
        await migrate.add_optional(settings, "vectors")
    with pytest.raises(InvalidInputError, match="dims: must be between 1 and 16000"):
        await migrate.add_optional(settings, "vectors", dims=0)
    with pytest.raises(InvalidInputError, match="dims: thread-meta has none"):
        await migrate.add_optional(settings, "thread-meta", dims=3)

    await migrate.add_optional(settings, "vectors", dims=3, half=True)
    await migrate.add_optional(settings, "vectors")

    kind = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attname = 'embedding'"
    assert await database.values(kind) == ["halfvec(3)"]
    for wanted in ({"dims": 3}, {"dims": 4, "half": True}):
        with pytest.raises(InvalidInputError, match=r"the database has halfvec\(3\)"):
            await migrate.add_optional(settings, "vectors", **wanted)


@pytest.mark.parametrize("order", [["vectors", "row-level-security"], ["row-level-security", "vectors"]])
async def test_policies_cover_vectors_in_whatever_order_both_were_added(database: Database, order: list[str]) -> None:
    settings = await filled(database)
    protected = "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'opt_item_vectors'"
    await add(settings, "vectors")
    assert await database.values(protected) == [False]
    await migrate.remove_optional(settings, "vectors")

    for name in order:
        await add(settings, name)

    assert await database.values(protected) == [True]
    await migrate.remove_optional(settings, "row-level-security")
    assert await database.values(protected) == [False]


async def test_whoever_changes_an_item_needs_no_right_on_its_vectors(database: Database) -> None:
    settings = await filled(database)
    await add(settings, "vectors")
    role = database.a_role_name()
    await database.execute(
        "INSERT INTO items (user_id, namespace, key, value) VALUES ('ada', 'a', 'k', '{}'), ('ada', 'a', 'l', '{}')",
        "INSERT INTO opt_item_vectors SELECT user_id, namespace, key, 0, '[1,2,3]' FROM items",
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA public TO {role}; "
        f"GRANT SELECT, UPDATE, DELETE ON items TO {role}",
    )
    try:
        as_role = database.as_role(role)
        await as_role.execute("UPDATE items SET expires_at = now()")
        assert await database.value("SELECT count(*) FROM opt_item_vectors") == 2
        await as_role.execute("UPDATE items SET value = '1' WHERE key = 'k'")
        assert await database.values("SELECT key FROM opt_item_vectors") == ["l"]
        await as_role.execute("DELETE FROM items")
        assert await database.values("SELECT key FROM opt_item_vectors") == []
    finally:
        await database.execute(f"DROP OWNED BY {role}", f"DROP ROLE {role}")
