"""``upgrade``, ``downgrade``, ``current``, ``check``, ``config``: the schema of the database."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

import typer

from agent_persistence import migrate
from agent_persistence.cli.confirmation import confirm
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.failures import ExitCode, describe, say_error
from agent_persistence.cli.options import DryRun, Json, Yes
from agent_persistence.cli.output import out, working, write_json
from agent_persistence.cli.servers import configured, run
from agent_persistence.errors import SchemaError
from agent_persistence.migrate.config import undone_by_downgrade
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

Move = Callable[[PersistenceSettings, str], Coroutine[Any, Any, None]]


def upgrade(
    revision: Annotated[str, typer.Argument(help="A revision, or head.")] = "head", *, as_json: Json = False
) -> None:
    """Create the tables, or upgrade them to a revision, by default the newest.

    Any number of processes may run it at once: one migrates and the others wait. Applications may go on meanwhile.

    Example: `agent-persistence upgrade`
    """
    with configured() as settings:
        _move(migrate.upgrade, revision, settings, as_json=as_json)


def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision, -1, or base: drop all tables.")],
    *,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Downgrade the database to a revision. Columns and tables of later revisions are dropped with their contents.

    It asks first if the database has threads.

    Example: `agent-persistence downgrade -1`
    """
    with configured() as settings:
        before = run_until_terminated(migrate.current(settings))
        undone = undone_by_downgrade(before, revision) if before else {}
        threads = run_until_terminated(migrate.count_threads(settings))
        if dry_run:
            _show_downgrade(revision, undone, threads, as_json=as_json)
            return
        if threads and undone:
            confirm(
                f"downgrade to {revision} in a database with {threads:,} threads: later tables and columns are dropped",
                yes=yes,
            )
        _move(migrate.downgrade, revision, settings, as_json=as_json)


def current(*, as_json: Json = False) -> None:
    """Print the revision of the database.

    Example: `agent-persistence current`
    """
    found = run(migrate.current)
    if as_json:
        write_json({"revision": found, "head": migrate.head()})
    else:
        out.print(found or "none: the schema is not created yet")


def config(*, as_json: Json = False) -> None:
    """Print the path of our alembic.ini. No database is needed.

    Example: `alembic -c $(agent-persistence config) history`
    """
    path = migrate.alembic_ini()
    if as_json:
        write_json({"alembic_ini": path})
    else:
        typer.echo(path)


def check(*, as_json: Json = False) -> None:
    """Check that the schema is the one that this version needs; print which command fixes it.

    It changes nothing. Use it in a pipeline before a deployment.

    Example: `agent-persistence check --json`
    """
    problem = run(_problem)
    if as_json:
        write_json(_as_json(problem))
    elif problem is None:
        out.print(f"ok: the schema is at revision {migrate.head()}, and its id types are those of the settings")
    else:
        say_error(describe(problem))
    raise typer.Exit(ExitCode.OK if problem is None else ExitCode.WRONG)


def _move(move: Move, revision: str, settings: PersistenceSettings, *, as_json: bool) -> None:
    with working("Migrating"):
        before, after = run_until_terminated(_moved(move, revision, settings))
    if as_json:
        write_json({"before": before, "after": after})
    else:
        out.print(f"{before or 'base'} -> {after or 'base'}" if after != before else f"already at {after or 'base'}")


async def _moved(move: Move, revision: str, settings: PersistenceSettings) -> tuple[str | None, str | None]:
    before = await migrate.current(settings)
    await move(settings, revision)
    return before, await migrate.current(settings)


def _show_downgrade(revision: str, undone: dict[str, str], threads: int, *, as_json: bool) -> None:
    if as_json:
        write_json({"dry_run": True, "undone": list(undone), "threads": threads})
        return
    revisions = "1 revision" if len(undone) == 1 else f"{len(undone)} revisions"
    out.print(f"a downgrade to {revision} would undo {revisions}; the database has {threads:,} threads")
    for name, title in undone.items():
        out.print(f"{name}  {title}", soft_wrap=True)


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
