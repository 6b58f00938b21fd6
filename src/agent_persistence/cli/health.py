"""``health``: whether the servers can be reached and the schema is ready, for probes and init containers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Final

import typer

from agent_persistence.cli.failures import ExitCode, describe, exit_code_of, no_connection, say_error
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import note, out, working, write_json
from agent_persistence.cli.servers import run
from agent_persistence.errors import NotMigratedError, PersistenceError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

_POLL_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Report:
    """The findings of one look.

    Attributes:
        cache: ``"up"``, ``"down"`` or ``"off"``. A cache that is down is no fault: states are read from PostgreSQL.
        problem: why the database cannot be used; ``None`` if it can.
    """

    cache: str
    problem: PersistenceError | None

    @property
    def exit_code(self) -> ExitCode:
        return ExitCode.OK if self.problem is None else exit_code_of(self.problem)

    @property
    def may_pass(self) -> bool:
        """Whether it is worth waiting: the server may start, and another process may migrate."""
        return self.problem is not None and (no_connection(self.problem) or isinstance(self.problem, NotMigratedError))

    def __str__(self) -> str:
        return f"ok: the database is up, the schema is ready, the cache is {self.cache}"

    def as_json(self) -> dict[str, Any]:
        is_up = self.problem is None or not no_connection(self.problem)
        schema = ("ready" if self.problem is None else "not ready") if is_up else "unknown"
        return {
            "ok": self.problem is None,
            "database": "up" if is_up else "down",
            "schema": schema,
            "cache": self.cache,
            "error": None if self.problem is None else type(self.problem).__name__,
            "message": None if self.problem is None else describe(self.problem),
            "remedy": getattr(self.problem, "command", None),
        }


def health(
    *,
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="Wait so long for the database and its schema.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Check that the database can be reached and has the schema of this version, and say whether the cache answers.

    It changes nothing. A cache that does not answer is no fault: states are read from PostgreSQL. With --wait, an init
    container lets its application start once another process has migrated. The exit code is 3 if the database cannot be
    reached, 1 if its schema is not ready.

    Example: `agent-persistence health --wait 60`
    """
    report = run(partial(_awaited, wait))
    if as_json:
        write_json(report.as_json())
    elif report.problem is None:
        out.print(str(report))
    else:
        say_error(describe(report.problem))
    raise typer.Exit(report.exit_code)


async def _awaited(wait: float, settings: PersistenceSettings) -> _Report:
    # Not entered: that would raise the problem that is looked for, or upgrade the schema (PERSISTENCE_AUTO_MIGRATE).
    persistence = Persistence[Any, Any](settings)
    clock = asyncio.get_running_loop()
    end = clock.time() + wait
    try:
        report = await _look(persistence)
        if wait and report.problem is not None and report.may_pass:
            note(f"waiting for {wait:g} s at most: {describe(report.problem)}")
        with working("Waiting for the database"):
            while report.may_pass and (left := end - clock.time()) > 0:
                await asyncio.sleep(min(_POLL_SECONDS, left))
                report = await _look(persistence)
        return report
    finally:
        await persistence.aclose()


async def _look(persistence: Persistence[Any, Any]) -> _Report:
    found, problem = await asyncio.gather(persistence.health(), _problem(persistence))
    return _Report(found.cache, problem)


async def _problem(persistence: Persistence[Any, Any]) -> PersistenceError | None:
    try:
        await persistence.check()
    except PersistenceError as error:
        return error
    return None
