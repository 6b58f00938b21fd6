"""``upgrade``, ``downgrade``, ``current``, ``check``, ``config``: the schema of the database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Annotated, Any

import typer

from agent_persistence import migrate
from agent_persistence.cli.failures import ExitCode, describe, say_error
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import out, write_json
from agent_persistence.cli.servers import run
from agent_persistence.errors import InvalidInputError, SchemaError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Move = Callable[[PersistenceSettings, str], Coroutine[Any, Any, None]]


def upgrade(revision: Annotated[str, typer.Argument(help="A revision, or head.")] = "head") -> None:
    """Upgrade the database to a revision, by default the newest."""
    run(partial(_move, migrate.upgrade, revision), changes=True)


def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision, -1, or base: drop all tables.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, whatever the database holds.")] = False,
) -> None:
    """Downgrade the database to a revision. Columns and tables of later revisions are dropped with their contents."""
    run(partial(_downgrade, revision, yes=yes), changes=True)


def current() -> None:
    """Print the revision of the database."""
    out.print(run(migrate.current) or "none: the schema is not created yet")


def config() -> None:
    """Print the path of our alembic.ini, for `alembic -c`."""
    typer.echo(migrate.alembic_ini())


def check(*, as_json: Json = False) -> None:
    """Check that the schema is the one that this version needs; print which command fixes it."""
    problem = run(_problem)
    if as_json:
        write_json(_as_json(problem))
    elif problem is None:
        out.print(f"ok: the schema is at revision {migrate.head()}, and its id types are those of the settings")
    else:
        say_error(describe(problem))
    raise typer.Exit(ExitCode.OK if problem is None else ExitCode.WRONG)


async def _move(move: Move, revision: str, settings: PersistenceSettings) -> None:
    before = await migrate.current(settings)
    await move(settings, revision)
    after = await migrate.current(settings)
    out.print(f"{before or 'base'} -> {after or 'base'}" if after != before else f"already at {after or 'base'}")


async def _downgrade(revision: str, settings: PersistenceSettings, *, yes: bool) -> None:
    if not yes and (threads := await migrate.count_threads(settings)):
        what = f"downgrade to {revision} in a database with {threads:,} threads: later tables and columns are dropped"
        if not sys.stdin.isatty():
            raise InvalidInputError("--yes", f"is needed to {what}")
        # In a thread, so that the event loop still hears of a signal.
        if not await asyncio.to_thread(typer.confirm, f"{what[0].upper()}{what[1:]}. Go on?", err=True):
            raise typer.Exit(ExitCode.WRONG)
    await _move(migrate.downgrade, revision, settings)


async def _problem(settings: PersistenceSettings) -> SchemaError | None:
    # Not entered: that would raise the problem that is looked for, or upgrade the schema (PERSISTENCE_AUTO_MIGRATE).
    persistence = Persistence[Any, Any](settings)
    try:
        await persistence.check()
    except SchemaError as error:
        return error
    finally:
        await persistence.aclose()
    return None


def _as_json(problem: SchemaError | None) -> dict[str, Any]:
    return {
        "ok": problem is None,
        "head": migrate.head(),
        "error": None if problem is None else type(problem).__name__,
        "message": None if problem is None else str(problem),
        "remedy": getattr(problem, "command", None),
    }
