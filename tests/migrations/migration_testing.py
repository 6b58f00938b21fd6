"""A database of its own for each test, and the ways to look into it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from agent_persistence import migrate
from agent_persistence.database.driver_errors import translated
from agent_persistence.embedded import postgres_binary
from agent_persistence.migrate.commands import run
from agent_persistence.migrate.connection import open_connection
from agent_persistence.settings import PersistenceSettings

REPOSITORY = Path(__file__).parents[2]
VERSION_TABLE = "schema_migrations"

# Not in pg_dump's order: columns may stand in another one. Not compared: compression, which models do not name.
_IGNORED = re.compile(
    r"^(--|SET |SELECT pg_catalog.set_config|\\(un)?restrict|(CREATE|COMMENT ON) SCHEMA |.* SET COMPRESSION )"
)


@dataclass(frozen=True)
class Database:
    """An empty database."""

    url: str

    def settings(self, **values: Any) -> PersistenceSettings:
        return PersistenceSettings(database_url=self.url, **values)

    def a_role_name(self) -> str:
        """The name of a role that no other test has: roles belong to the server."""
        return "role_of_" + urlsplit(self.url).path.lstrip("/")

    def as_role(self, role: str) -> Database:
        return Database(self.url.replace("//postgres@", f"//{role}@"))

    async def execute(self, *statements: str) -> None:
        async with self.connected() as connection:
            for statement in statements:
                await connection.execute(statement)

    async def clear(self) -> None:
        """Drop all that a test may have made, sessions included."""
        await self.execute(
            """
            SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid()
            """,
            """
            DO $$ DECLARE name text; BEGIN
              FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_|^information_schema$' LOOP
                EXECUTE format('DROP SCHEMA %I CASCADE', name);
              END LOOP;
              EXECUTE format('ALTER DATABASE %I RESET ALL', current_database());
            END $$
            """,
            "CREATE SCHEMA public",
        )

    async def values(self, query: str, *arguments: object) -> list[Any]:
        """The first column of a query."""
        async with self.connected() as connection:
            return [row[0] for row in await connection.fetch(query, *arguments)]

    async def value(self, query: str, *arguments: object) -> Any:
        [value] = await self.values(query, *arguments)
        return value

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[AsyncEngine]:
        url = self.settings().migration_database
        assert url is not None
        engine = create_async_engine(url.sqlalchemy_url, connect_args=url.connect_args, poolclass=NullPool)
        yield engine
        await engine.dispose()

    async def objects(self, schema: str) -> list[str]:
        """Every table, sequence, index, view and type of a schema."""
        return await self.values(
            """
            SELECT relname::text FROM pg_class WHERE relnamespace = to_regnamespace($1)
            UNION
            SELECT typname::text FROM pg_type WHERE typnamespace = to_regnamespace($1) AND typelem = 0
            ORDER BY 1
            """,
            schema,
        )

    async def dump(self, schema: str) -> list[str]:
        """The definitions in a schema as ``pg_dump`` sees them, but for the order of columns."""
        options = [
            "--schema-only",
            "--no-owner",
            "--no-privileges",
            f"--schema={schema}",
            f"--exclude-table=*.{VERSION_TABLE}",
        ]
        text = await _output_of(str(postgres_binary("pg_dump")), *options, self.url)
        lines = "\n".join(line for line in text.splitlines() if not _IGNORED.match(line))
        statements = re.split(r"\n\n+", lines.strip())
        return sorted("\n".join(sorted(line.rstrip(",") for line in one.splitlines())) for one in statements)

    async def psql(self, script: str) -> str:
        """Apply a script, as an administrator would."""
        return await _output_of(str(postgres_binary("psql")), "-qX", "-v", "ON_ERROR_STOP=1", self.url, text=script)


async def alembic(
    settings: PersistenceSettings, run_command: Callable[[Config], Any], *, ini: Path | None = None
) -> None:
    """Run one of Alembic's commands in this process, on the shipped history or on that of ``ini``."""
    config = migrate.alembic_config(settings) if ini is None else Config(str(ini), attributes={"settings": settings})
    with translated():
        async with open_connection(settings) as connection:
            await run(connection, config, run_command)


async def check(settings: PersistenceSettings) -> None:
    """``alembic check``: raises where models and database differ."""
    await alembic(settings, command.check)


class Process:
    """A Python program in a process of its own, without the settings of whoever runs the tests."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""

    @classmethod
    async def start(cls, *arguments: str, cwd: Path, env: Mapping[str, str]) -> Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *arguments,
            cwd=cwd,
            env=environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return cls(process)

    async def wait(self) -> int:
        output, _ = await self.process.communicate()
        self.output = output.decode()
        return self.process.returncode or 0


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process without settings of the person who runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PERSISTENCE_", "ALEMBIC_"))}
    return {**kept, **extra}


def later_revision(place: int = 1) -> str:
    """The name of the first, second ... revision that ``later_history`` adds behind the shipped ones."""
    versions = (REPOSITORY / "migrations" / "versions").glob("*_ap*.py")
    newest = max(int(version.name.split("_")[1].removeprefix("ap")) for version in versions)
    return f"ap{newest + place:04d}"


def later_history(folder: Path, *revisions: str) -> Path:
    """Write an ``alembic.ini`` whose history goes on after the shipped one; returns its path.

    Each revision is the body of its ``upgrade``.
    """
    versions = folder / "versions"
    versions.mkdir()
    for place, body in enumerate(revisions, start=1):
        (versions / f"{later_revision(place)}_later.py").write_text(
            "import sqlalchemy as sa\n"
            "from alembic import op\n"
            "from agent_persistence.migrate import operations\n"
            f"revision, down_revision = '{later_revision(place)}', '{later_revision(place - 1)}'\n"
            "def upgrade():\n"
            "    operations.limit_lock_waits()\n"
            f"    {body}\n"
            "def downgrade():\n"
            "    pass\n"
        )
    ini = folder / "alembic.ini"
    migrations = REPOSITORY / "migrations"
    ini.write_text(
        "[alembic]\n"
        f"script_location = {migrations}\n"
        f"version_locations = {migrations / 'versions'}{os.pathsep}{versions}\n"
        "path_separator = os\n"
    )
    return ini


def with_database(url: str, name: str) -> str:
    """The same server, another database."""
    return urlsplit(url)._replace(path=f"/{name}").geturl()


async def _output_of(*command_line: str, text: str = "") -> str:
    process = await asyncio.create_subprocess_exec(
        *command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    output, errors = await process.communicate(text.encode())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode or 1, command_line[0], output.decode(), errors.decode())
    return output.decode()
