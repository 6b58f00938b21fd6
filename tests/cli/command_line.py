"""The command line, in this process and in one of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import asyncpg
from typer.testing import CliRunner, Result

from agent_persistence.cli.app import app


@dataclass(frozen=True)
class CommandLine:
    """Runs commands with these variables set."""

    variables: dict[str, str]

    def __call__(self, *arguments: object, stdin: bytes | str | None = None) -> Result:
        """Run a command in this process."""
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, env=self.variables)

    def with_variables(self, **variables: str) -> CommandLine:
        """The same with more variables, or with others."""
        return CommandLine(self.variables | variables)

    def start(self, *arguments: object, **options: Any) -> subprocess.Popen[bytes]:
        """Run a command in a process of its own."""
        command = [sys.executable, "-m", "agent_persistence.cli", *map(str, arguments)]
        return subprocess.Popen(command, env=os.environ | self.variables, stderr=subprocess.PIPE, **options)

    def on_connection(self, work: Callable[[asyncpg.Connection], Coroutine[Any, Any, Any]]) -> Any:
        """Do something in the database without this package."""

        async def connected() -> Any:
            schema = {"search_path": self.variables["PERSISTENCE_DB_SCHEMA"]}
            connection = await asyncpg.connect(self.variables["PERSISTENCE_DATABASE_URL"], server_settings=schema)
            try:
                return await work(connection)
            finally:
                await connection.close()

        return asyncio.run(connected())

    def sql(self, statement: str) -> list[Any]:
        """Run a statement without this package."""
        return list(self.on_connection(lambda connection: connection.fetch(statement)))


async def until(connection: asyncpg.Connection, condition: str) -> None:
    """Wait for what other processes do in this database; no event of theirs reaches us."""
    others = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    async with asyncio.timeout(60):
        while not await connection.fetchval(f"SELECT {condition} FROM {others}"):
            await asyncio.sleep(0.02)
            await connection.execute("SELECT pg_stat_clear_snapshot()")  # a transaction sees the first one it took
