"""The command line, on a schema that is a test's alone."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from agent_persistence.embedded import EmbeddedServers
from command_line import CommandLine


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's .env decides nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def id_types() -> tuple[str, str]:
    """The id types of the test's schema; a test that wants others overrides it."""
    return ("string", "string")


@pytest_asyncio.fixture(scope="session")
async def database_url(make_database: Callable[[], Awaitable[str]]) -> str:
    """One database for all tests of the command line: a schema each is cheaper than a database each."""
    return await make_database()


@pytest.fixture
def unmigrated(id_types: tuple[str, str], servers: EmbeddedServers, database_url: str) -> CommandLine:
    """The command line, on a schema that is not there yet."""
    schema = f"cli_{uuid.uuid4().hex[:12]}"
    return CommandLine(
        {
            "PERSISTENCE_DATABASE_URL": database_url,
            "PERSISTENCE_DB_SCHEMA": schema,
            "PERSISTENCE_REDIS_URL": servers.redis_url,
            "PERSISTENCE_CACHE_NAMESPACE": schema,
            # A busy machine is no finding.
            "PERSISTENCE_CACHE_TIMEOUT_MS": "2000",
            "PERSISTENCE_CACHE_BUDGET_MS": "4000",
            "PERSISTENCE_ID_TYPE": id_types[0],
            "PERSISTENCE_USER_ID_TYPE": id_types[1],
        }
    )


@pytest.fixture(scope="session")
def templates() -> dict[tuple[str, str], str]:
    """For each pair of id types, a database that is ready for use: a copy of it takes a tenth of the time."""
    return {}


@pytest.fixture
def command_line(
    unmigrated: CommandLine, id_types: tuple[str, str], templates: dict[tuple[str, str], str]
) -> CommandLine:
    """The command line, on a schema that is ready for use."""
    if id_types not in templates:
        templates[id_types] = f"template_{'_'.join(id_types)}"
        unmigrated.sql(f"CREATE DATABASE {templates[id_types]}")
        result = on_database(unmigrated, templates[id_types])("upgrade")
        assert result.exit_code == 0, result.output
    name = f"cli_{uuid.uuid4().hex[:12]}"
    unmigrated.sql(f"CREATE DATABASE {name} TEMPLATE {templates[id_types]}")
    return on_database(unmigrated, name).with_variables(PERSISTENCE_CACHE_NAMESPACE=name)


def on_database(command_line: CommandLine, name: str) -> CommandLine:
    url = command_line.variables["PERSISTENCE_DATABASE_URL"]
    address, _, parameters = url.partition("?")
    url = f"{address.rpartition('/')[0]}/{name}?{parameters}"
    return command_line.with_variables(PERSISTENCE_DATABASE_URL=url, PERSISTENCE_DB_SCHEMA="cli")
