"""Real servers for every test: PostgreSQL and Valkey from wheels, started once a run; a database a configuration."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from connections import all_are_back
from debian.debian_redis import RedisServer
from hardening.hardening_servers import own_postgresql
from leaks import watched_for_leaks, with_password
from redis.asyncio import Redis
from torture.servers import PostgreSQL

from agent_persistence import embedded, migrate
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.embedded.binaries import valkey_binary
from agent_persistence.ids import ID_TYPES, IdType, IdTypes, uuid7
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

for name in [name for name in os.environ if name.startswith("PERSISTENCE_") and name != "PERSISTENCE_TEST_DATA"]:
    del os.environ[name]  # what the developer has set must decide nothing here, except where the real data are

ID_PAIRS = list(itertools.product(ID_TYPES, ID_TYPES))
MakeDatabase = Callable[[], Awaitable[str]]


def pytest_configure(config: pytest.Config) -> None:
    """Know pytest-cov's marker where that plugin is not installed."""
    config.addinivalue_line("markers", "no_cover: not measured, even with --cov")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measuring coverage doubles a test's time; what the slow and the generated ones run, the others run as well."""
    for item in items:
        is_generated = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if is_generated or item.get_closest_marker("slow"):
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def no_leaks() -> Iterator[None]:
    """No log and no error of the whole run holds what the tests hide in contents and passwords."""
    with watched_for_leaks() as leaks:
        yield
    assert leaks == []


@pytest.fixture(autouse=True)
def unmeasured_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test starts is measured where the test is."""
    if request.node.get_closest_marker("no_cover"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(scope="session")
def servers() -> Iterator[EmbeddedServers]:
    """PostgreSQL and Valkey for the whole run; nothing in them outlives it."""
    folder = Path(tempfile.mkdtemp(prefix="agent-persistence-tests-"))
    try:
        yield embedded.start(folder, durable=False)
    finally:
        embedded.stop(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture(scope="session")
async def postgresql() -> AsyncIterator[PostgreSQL]:
    """A server that tests may crash, as long as they start it again."""
    async with own_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def make_database(servers: EmbeddedServers) -> MakeDatabase:
    """Make a fresh, empty database and return its URL."""

    async def make() -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        connection = await asyncpg.connect(servers.database_url)
        try:
            await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()
        return servers.database_url.replace("/agent_persistence?", f"/{name}?")

    return make


@pytest.fixture(scope="session")
def settings_for(
    servers: EmbeddedServers, make_database: MakeDatabase
) -> Callable[..., Awaitable[PersistenceSettings]]:
    """Settings for a migrated database of a pair of id types; one database a pair for the whole run."""
    databases: dict[tuple[str, str], str] = {}

    async def settings(id_type: str = "string", user_id_type: str = "string", **changes: Any) -> PersistenceSettings:
        pair = (id_type, user_id_type)
        values: dict[str, Any] = {"id_type": id_type, "user_id_type": user_id_type, "redis_url": servers.redis_url}
        if pair not in databases:
            databases[pair] = with_password(await make_database())
            await migrate.upgrade(
                PersistenceSettings(_env_file=None, database_url=databases[pair], **values)  # type: ignore[call-arg]  # pydantic-settings' own keyword
            )
        # A namespace of its own keeps the keys of one test out of every other.
        namespace = f"test-{uuid.uuid4().hex[:8]}"
        # A machine under load must not turn a hit into a miss: tests of the time limits set their own.
        patient = {"cache_timeout_ms": 2_000, "cache_budget_ms": 4_000}
        # Tests that count connections, statements or commands want no others in between: those of the sweeper ask it.
        patient["cache_sweep_interval"] = 3_600
        values = {"database_url": databases[pair], "cache_namespace": namespace, **values, **patient, **changes}
        return PersistenceSettings(_env_file=None, **values)

    return settings


@dataclass(frozen=True)
class NewIds:
    """Makes ids nobody has used, of the kinds of a configuration."""

    id_types: IdTypes[Any, Any]

    def user(self) -> Any:
        return _new_id(self.id_types.user)

    def thread(self) -> Any:
        return _new_id(self.id_types.id)

    message = thread


_numbers = itertools.count(-1, -1)  # the database counts up from 1


def _new_id(kind: IdType[Any]) -> Any:
    return {str: lambda: f"id-{uuid.uuid4()}", int: lambda: next(_numbers), uuid.UUID: uuid7}[kind.python_type]()


@pytest.fixture(params=ID_PAIRS, ids="-".join)
def id_pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Each pair of id types: of threads and messages, and of users."""
    pair: tuple[str, str] = request.param
    return pair


@pytest_asyncio.fixture(scope="session")
async def open_store(
    settings_for: Callable[..., Awaitable[PersistenceSettings]],
) -> AsyncIterator[Callable[[tuple[str, str]], Awaitable[Persistence[Any, Any]]]]:
    """A store for a pair of id types, opened once a run: what tests leave in it belongs to owners of their own."""
    stores: dict[tuple[str, str], Persistence[Any, Any]] = {}

    async def store(pair: tuple[str, str]) -> Persistence[Any, Any]:
        if pair not in stores:
            stores[pair] = await Persistence[Any, Any](await settings_for(*pair)).__aenter__()
        return stores[pair]

    yield store
    for opened in stores.values():
        await opened.aclose()


async def assert_all_connections_are_back(store: Persistence[Any, Any]) -> None:
    """Whatever a test did, no connection may still be in use; idle ones beyond a few would use the server up."""
    pool: Any = store.engine.pool
    assert await all_are_back(store)
    if pool.checkedin() > 3:
        await store.engine.dispose()


@pytest_asyncio.fixture
async def any_persistence(id_pair: tuple[str, str], open_store: Any) -> AsyncIterator[Persistence[Any, Any]]:
    """A store of each pair of id types, with its cache."""
    store = await open_store(id_pair)
    yield store
    await assert_all_connections_are_back(store)


@pytest_asyncio.fixture
async def persistence(open_store: Any) -> AsyncIterator[Persistence[str, str]]:
    """A store with string ids, with its cache, for what does not depend on the kind of id."""
    store = await open_store(("string", "string"))
    yield store
    await assert_all_connections_are_back(store)


@pytest.fixture
def new_ids() -> NewIds:
    """Makes unused string ids."""
    return NewIds(IdTypes(ID_TYPES["string"], ID_TYPES["string"]))


@pytest.fixture
def user_id(new_ids: NewIds) -> str:
    """An owner who has nothing yet."""
    return str(new_ids.user())


@pytest.fixture
def any_ids(any_persistence: Persistence[Any, Any]) -> NewIds:
    """Makes unused ids of the configured kinds."""
    return NewIds(any_persistence.models.id_types)


@pytest.fixture
def any_user(any_persistence: Persistence[Any, Any]) -> Any:
    """An owner of the configured kind who has nothing yet."""
    return NewIds(any_persistence.models.id_types).user()


@pytest.fixture
def valkey() -> Iterator[RedisServer]:
    """A Valkey of the test's own, which it may treat as it likes."""
    server = RedisServer(str(valkey_binary()), Path(tempfile.mkdtemp(prefix="ap-valkey-")), port=0)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(server.folder)


@pytest_asyncio.fixture
async def redis(servers: EmbeddedServers) -> AsyncIterator[Redis]:
    """A client of the test's own, to look behind the cache."""
    async with Redis.from_url(servers.redis_url) as client:
        yield client
