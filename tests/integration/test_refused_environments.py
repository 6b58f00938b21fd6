"""What the environment of an application gets wrong: refused by name, before it does harm."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis as sync_redis
import sqlalchemy
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine

from agent_persistence import migrate
from agent_persistence.errors import InvalidInputError, SchemaError, SettingsError
from agent_persistence.integrations.fastapi import install
from agent_persistence.migrate.verify import refuse_other_engines
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

ADDRESS = "postgresql://u:hunter2@db/x"


def settings(**values: Any) -> PersistenceSettings:
    return PersistenceSettings(_env_file=None, **values)


def test_an_engine_that_is_not_asynchronous_is_refused() -> None:
    engine: Any = sqlalchemy.create_engine("sqlite://")

    with pytest.raises(InvalidInputError, match="engine: must be made by create_async_engine, not a Engine"):
        Persistence(settings(), engine=engine)


def test_an_engine_of_another_driver_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_async_engine("postgresql+asyncpg://db/x")
    monkeypatch.setattr(engine.dialect, "driver", "psycopg")

    with pytest.raises(InvalidInputError, match=r"engine: must use postgresql\+asyncpg, not postgresql\+psycopg"):
        Persistence(settings(), engine=engine)


def test_a_client_of_another_kind_is_refused() -> None:
    client: Any = sync_redis.Redis()

    with pytest.raises(InvalidInputError, match="redis: must be a redis.asyncio.Redis"):
        Persistence(settings(database_url=ADDRESS), redis=client)


async def test_a_scoped_session_is_refused_by_name(persistence: Persistence[str, str]) -> None:
    scoped: Any = async_scoped_session(async_sessionmaker(persistence.engine), scopefunc=lambda: 1)

    with pytest.raises(InvalidInputError, match="session: must be an AsyncSession, not async_scoped_session"):
        persistence.bind(scoped, user_id="ann")


class WarningSync(sqlalchemy.orm.Session):
    """Warns where SQLModel's sessions do."""

    def execute(self, *_: Any, **__: Any) -> Any:
        raise DeprecationWarning("use exec")

    scalars = execute


class WarningSession(AsyncSession):
    """Warns where SQLModel's sessions do."""

    sync_session_class = WarningSync

    async def execute(self, *_: Any, **__: Any) -> Any:
        raise DeprecationWarning("use exec")

    scalars = execute


async def test_a_session_whose_methods_warn_is_used_without_them(persistence: Persistence[str, str]) -> None:
    async with WarningSession(persistence.engine) as session:
        uow = persistence.bind(session, user_id="ann")
        thread = await uow.threads.create()
        await uow.states.put(thread.thread_id, 1, expected_version=0)
        await uow.messages.append(thread.thread_id, {"role": "user", "content": "hello"})
        found = await uow.entities.get_thread(thread.thread_id)
        await session.rollback()

    assert found is not None


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("CockroachDB CCL v26.3.0 (x86_64-pc-linux-gnu, built 2026/05/01)", "CockroachDB"),
        ("PostgreSQL 15.12-YB-2025.1.0.0-b0 on x86_64-pc-linux-gnu", "YugabyteDB"),
        ("PostgreSQL 16 on Aurora DSQL", "Aurora DSQL"),
        ("PostgreSQL 8.0.2 on i686-pc-linux-gnu, Redshift 1.0.1", "Redshift"),
    ],
)
def test_an_engine_that_numbers_otherwise_is_refused_by_name(version: str, name: str) -> None:
    with pytest.raises(SchemaError, match=f"{name} is not supported"):
        refuse_other_engines(version)


def test_postgresql_is_not_refused() -> None:
    refuse_other_engines("PostgreSQL 18.0 on x86_64-pc-linux-gnu, compiled by gcc, 64-bit")


async def test_a_sequence_that_hands_out_numbers_ahead_is_refused_until_its_command_was_run(
    make_database: Callable[[], Awaitable[str]],
) -> None:
    url = await make_database()
    await migrate.upgrade(settings(database_url=url))
    connection = await asyncpg.connect(url)
    await connection.execute("ALTER SEQUENCE messages_seq_seq CACHE 100")

    with pytest.raises(SchemaError, match="ALTER SEQUENCE messages_seq_seq CACHE 1;"):
        await Persistence[str, str](settings(database_url=url)).__aenter__()
    await connection.execute("ALTER SEQUENCE messages_seq_seq CACHE 1;")
    async with Persistence[str, str](settings(database_url=url)):
        pass
    await connection.close()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "PERSISTENCE_POOL_SIZE=ä".encode("utf-16")])
def test_an_unreadable_env_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_bytes(content)

    with pytest.raises(SettingsError, match=r"\.env: cannot be read") as refusal:
        PersistenceSettings()

    assert refusal.value.__context__ is None


def test_a_process_without_a_name_needs_a_user_in_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.delenv("PGUSER", raising=False)

    with pytest.raises(SettingsError, match="PERSISTENCE_DATABASE_URL: names no user"):
        settings(database_url="postgresql://db/x")
    assert settings(database_url="postgresql://u@db/x").database is not None


@pytest.mark.parametrize("field", ["pool_size", "id_type", "db_schema", "cache_namespace", "batching", "sql_log_level"])
def test_an_address_in_a_wrong_variable_is_not_shown(field: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        settings(**{field: f"{ADDRESS} x"})

    assert "hunter2" not in str(refusal.value) + repr(refusal.value)


def test_credentials_in_the_address_of_dynamodb_are_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="PERSISTENCE_DYNAMODB_ENDPOINT_URL: must not hold credentials") as refusal:
        settings(dynamodb_endpoint_url="http://key:hunter2@localhost:8000")

    assert "hunter2" not in str(refusal.value)
    assert urlsplit(settings(dynamodb_endpoint_url="http://localhost:8000").dynamodb_endpoint_url or "").port == 8000


def test_a_second_install_is_refused() -> None:
    app = FastAPI()
    install(app, Persistence.from_env)

    with pytest.raises(InvalidInputError, match="app: has a Persistence already"):
        install(app, Persistence.from_env)
