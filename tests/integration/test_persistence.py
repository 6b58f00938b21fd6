"""Opening, checking, closing: what a host application sees of ``Persistence`` itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from agent_persistence import migrate
from agent_persistence.errors import (
    CheckpointingDisabledError,
    DatabaseError,
    IdTypeMismatchError,
    InvalidInputError,
    NotMigratedError,
    PoolTimeoutError,
    SettingsError,
    StatementTimeoutError,
    UnavailableError,
)
from agent_persistence.operations.host_objects import warn_of_another_address
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
MakeDatabase = Callable[[], Awaitable[str]]


def settings(**values: Any) -> PersistenceSettings:
    return PersistenceSettings(_env_file=None, **values)


async def test_without_an_address_the_variable_is_named() -> None:
    with pytest.raises(SettingsError, match="PERSISTENCE_DATABASE_URL"):
        Persistence(settings())


async def test_the_environment_configures_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, persistence: Persistence[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    url = persistence.settings.database_url
    assert url is not None
    monkeypatch.setenv("PERSISTENCE_DATABASE_URL", url.get_secret_value())
    monkeypatch.setenv("PERSISTENCE_POOL_SIZE", "3")

    async with Persistence.from_env() as store:
        assert store.settings.pool_size == 3
        assert (await store.health()).database == "up"


async def test_an_empty_database_is_refused_with_the_command_that_mends_it(make_database: MakeDatabase) -> None:
    with pytest.raises(NotMigratedError, match="agent-persistence upgrade"):
        async with Persistence(settings(database_url=await make_database())):
            pass


@pytest.mark.parametrize("migration_address", ["none", "of the engine's database"])
async def test_auto_migrate_brings_the_database_of_the_engine_to_head_and_no_other(
    make_database: MakeDatabase, migration_address: str, user_id: str
) -> None:
    named, used = await make_database(), await make_database()
    direct = None if migration_address == "none" else used
    engine = engine_of(used)

    async with Persistence[str, str](
        settings(database_url=named, migration_database_url=direct, auto_migrate=True), engine=engine
    ) as store:
        await store.threads.create(user_id=user_id)

    await engine.dispose()
    assert await migrate.current(settings(database_url=used)) == migrate.head()
    assert await migrate.current(settings(database_url=named)) is None


async def test_auto_migrate_refuses_an_address_for_migrations_that_leads_away_from_the_engine(
    make_database: MakeDatabase,
) -> None:
    named, used = await make_database(), await make_database()
    engine = engine_of(used)

    with pytest.raises(SettingsError, match="leads to another database than the engine") as refusal:
        async with Persistence[str, str](settings(migration_database_url=named, auto_migrate=True), engine=engine):
            pass

    await engine.dispose()
    assert refusal.value.variable == "PERSISTENCE_MIGRATION_DATABASE_URL"
    assert await migrate.current(settings(database_url=named)) is None


def engine_of(url: str) -> AsyncEngine:
    address = settings(database_url=url).database
    assert address is not None
    return create_async_engine(address.sqlalchemy_url, connect_args=address.connect_args)


async def test_auto_migrate_brings_an_empty_database_to_head(make_database: MakeDatabase, user_id: str) -> None:
    async with Persistence[str, str](settings(database_url=await make_database(), auto_migrate=True)) as store:
        thread = await store.threads.create(user_id=user_id)

        assert await store.threads.get(thread.thread_id, user_id=user_id) == thread


async def test_a_database_of_another_id_type_is_refused_with_both_named(settings_for: SettingsFor) -> None:
    wrong = (await settings_for("string", "string")).model_copy(update={"id_type": "bigint"})

    with pytest.raises(IdTypeMismatchError) as caught:
        async with Persistence(wrong):
            pass

    assert (caught.value.recorded, caught.value.given) == ("string", "bigint")


async def test_an_unreachable_database_is_one_of_our_errors(unused_tcp_port: int) -> None:
    url = f"postgresql://u:secret@127.0.0.1:{unused_tcp_port}/db"
    store = Persistence[str, str](settings(database_url=url, retry_deadline=0))

    with pytest.raises(UnavailableError) as caught:
        await store.threads.get("t", user_id="u")

    assert caught.value.retryable
    assert "secret" not in str(caught.value)
    assert (await store.health()).database == "down"
    await store.aclose()


async def test_the_limits_of_the_settings_reach_the_server(settings_for: SettingsFor) -> None:
    chosen = await settings_for(
        statement_timeout=7, lock_timeout=2, idle_in_transaction_timeout=6, transaction_timeout=5
    )

    async with Persistence[str, str](chosen) as store, store.engine.connect() as connection:
        names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
        found = [await connection.scalar(text(f"SHOW {name}")) for name in names]

    assert found == ["7s", "2s", "6s", "5s"]


async def test_a_statement_beyond_its_limit_is_one_of_our_errors(settings_for: SettingsFor, user_id: str) -> None:
    async with Persistence[str, str](await settings_for(lock_timeout=0.05)) as store:
        thread = await store.threads.create(user_id=user_id)
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.update(thread.thread_id, name="held")

            with pytest.raises(StatementTimeoutError):
                await store.threads.update(thread.thread_id, user_id=user_id, name="late")


async def test_an_exhausted_pool_is_one_of_our_errors(settings_for: SettingsFor, user_id: str) -> None:
    small = await settings_for(pool_size=1, max_overflow=0, pool_timeout=0.05)
    async with Persistence[str, str](small) as store:
        async with store.begin(user_id=user_id) as uow:
            await uow.threads.page()

            with pytest.raises(PoolTimeoutError):
                await store.threads.page(user_id=user_id)

        assert len(await store.threads.page(user_id=user_id)) == 0


async def test_a_unit_of_work_that_raises_leaves_nothing(persistence: Persistence[str, str], user_id: str) -> None:
    class OwnError(Exception):
        pass

    async def fail() -> None:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.threads.create(name="never")
            raise OwnError

    with pytest.raises(OwnError):
        await fail()

    assert len(await persistence.threads.page(user_id=user_id)) == 0


async def test_a_constraint_checked_at_commit_is_one_of_our_errors(make_database: MakeDatabase, user_id: str) -> None:
    async with Persistence[str, str](settings(database_url=await make_database(), auto_migrate=True)) as store:
        async with store.engine.begin() as connection:
            await connection.execute(text("CREATE TABLE owners (id varchar(255) PRIMARY KEY)"))
            await connection.execute(
                text(
                    "ALTER TABLE threads ADD CONSTRAINT fk_host FOREIGN KEY (user_id) REFERENCES owners "
                    "DEFERRABLE INITIALLY DEFERRED"
                )
            )

        with pytest.raises(DatabaseError) as caught:
            await store.threads.create(user_id=user_id)

        assert (caught.value.sqlstate, caught.value.constraint) == ("23503", "fk_host")
        assert caught.value.committed == "no"


async def test_a_commit_that_is_killed_halfway_is_done_again(make_database: MakeDatabase, user_id: str) -> None:
    """A deferred trigger holds the COMMIT open for as long as it takes to kill its backend."""
    url = await make_database()
    async with Persistence[str, str](settings(database_url=url, auto_migrate=True)) as store:
        async with store.engine.begin() as connection:
            await connection.execute(
                text(
                    "CREATE FUNCTION stall() RETURNS trigger LANGUAGE plpgsql AS "
                    "$$ BEGIN PERFORM pg_advisory_lock(1); RETURN NULL; END $$"
                )
            )
            await connection.execute(
                text(
                    "CREATE CONSTRAINT TRIGGER stall AFTER INSERT ON threads DEFERRABLE INITIALLY DEFERRED "
                    "FOR EACH ROW EXECUTE FUNCTION stall()"
                )
            )
        killer = await asyncpg.connect(url)
        await killer.execute("SELECT pg_advisory_lock(1)")
        writer = asyncio.create_task(store.threads.create(user_id=user_id))
        waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while (pid := await killer.fetchval(waiting)) is None:  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.01)
        await killer.execute("SELECT pg_terminate_backend($1)", pid)

        await killer.execute("SELECT pg_advisory_unlock(1)")

        thread = await writer

        await killer.close()
        assert (await store.threads.page(user_id=user_id)).items == (thread,)


async def test_a_hosts_engine_is_used_and_left_open(settings_for: SettingsFor, user_id: str) -> None:
    configured = await settings_for()
    assert configured.database is not None
    engine = create_async_engine(configured.database.sqlalchemy_url, connect_args=configured.database.connect_args)

    async with Persistence[str, str](configured.model_copy(update={"database_url": None}), engine=engine) as store:
        await store.threads.create(user_id=user_id)

    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


@pytest.mark.parametrize(
    ("named", "warns"), [("another", True), ("embedded", True), ("the same", False), (None, False)]
)
async def test_an_address_that_is_not_the_engines_is_warned_of(
    settings_for: SettingsFor, caplog: pytest.LogCaptureFixture, named: str | None, warns: bool
) -> None:
    configured = await settings_for()
    assert configured.database is not None
    engine = create_async_engine(configured.database.sqlalchemy_url, connect_args=configured.database.connect_args)
    addresses = {
        "another": "postgresql://localhost/another",
        "embedded": "embedded",
        "the same": configured.database_url,
        None: None,
    }
    changed = PersistenceSettings(**{**dict(configured), "database_url": addresses[named]}, _env_file=None)

    async with Persistence[str, str](changed, engine=engine):
        pass

    await engine.dispose()
    events = [getattr(record, "event_name", None) for record in caplog.records]
    assert ("database.named_otherwise" in events) is warns


@pytest.mark.parametrize(
    ("engine_url", "warns"),
    [
        ("postgresql+asyncpg://u:p@localhost/d", False),
        ("postgresql+asyncpg://u:p@[::1]:5432/d", False),
        ("postgresql+asyncpg://u:p@127.0.0.1:5433/d", True),
        ("postgresql+asyncpg://u:p@direct/d", False),
        ("postgresql+asyncpg://u:p@localhost/e", True),
        ("postgresql+asyncpg://u:p@elsewhere/d", True),
        ("postgresql+asyncpg://", False),
    ],
)
async def test_an_address_may_be_written_in_other_ways(
    caplog: pytest.LogCaptureFixture, engine_url: str, warns: bool
) -> None:
    configured = settings(
        database_url="postgresql://v@127.0.0.1/d", migration_database_url="postgresql://v@direct:5432/d"
    )

    warn_of_another_address(create_async_engine(engine_url), configured)

    assert bool(caplog.records and "another address" in caplog.text) is warns


async def test_states_are_refused_while_checkpointing_is_off_and_messages_are_not(
    settings_for: SettingsFor, user_id: str
) -> None:
    async with Persistence[str, str](await settings_for(enable_checkpointing=False)) as store:
        thread = await store.threads.create(user_id=user_id)
        await store.messages.append(thread.thread_id, {"role": "user", "content": "hi"}, user_id=user_id)

        with pytest.raises(CheckpointingDisabledError, match="PERSISTENCE_ENABLE_CHECKPOINTING"):
            await store.states.put(thread.thread_id, 1, user_id=user_id)

        assert await store.states.get(thread.thread_id, user_id=user_id) is None


async def test_an_owner_of_the_wrong_kind_is_refused(any_persistence: Persistence[Any, Any]) -> None:
    with pytest.raises(InvalidInputError, match="user_id"):
        await any_persistence.threads.page(user_id=b"somebody")


async def test_closing_twice_is_no_error(settings_for: SettingsFor) -> None:
    store = Persistence[str, str](await settings_for())
    await store.check()

    await store.aclose()
    await store.aclose()


async def test_the_word_embedded_starts_servers_and_closing_stops_them(tmp_path: Path, user_id: str) -> None:
    chosen = settings(database_url="embedded", redis_url="embedded", embedded_dir=tmp_path / "s", auto_migrate=True)

    async with Persistence[str, str](chosen) as store:
        thread = await store.threads.create(user_id=user_id)
        await store.states.put(thread.thread_id, 1, user_id=user_id)
        assert (await store.health()).cache == "up"
        address = store.engine.url

    with pytest.raises(OSError, match=".*"):
        await asyncpg.connect(host=address.query["host"], user="postgres", database="agent_persistence")


async def test_work_of_a_host_in_the_same_session_commits_or_falls_with_ours(
    persistence: Persistence[str, str], user_id: str
) -> None:
    async with persistence.begin(user_id=user_id) as uow:
        thread = await uow.threads.create()
        await uow.session.execute(text("UPDATE threads SET thread_name = 'host' WHERE user_id = :u"), {"u": user_id})

    assert (await persistence.threads.require(thread.thread_id, user_id=user_id)).name == "host"


async def test_a_connection_known_to_be_dead_before_commit_means_that_nothing_was_committed(
    persistence: Persistence[str, str], user_id: str
) -> None:
    killer = await persistence.engine.connect()

    async def write() -> None:
        async with persistence.begin(user_id=user_id) as uow:
            await uow.threads.create()
            pid = await uow.session.scalar(text("SELECT pg_backend_pid()"))
            await killer.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid})
            connection = await uow.session.connection()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            while not driver.is_closed():  # noqa: ASYNC110 - nor has the driver
                await asyncio.sleep(0.01)

    with pytest.raises(UnavailableError) as caught:
        await write()

    await killer.close()
    assert caught.value.committed == "no"
