"""``optional``: adds and removes optional objects of the schema."""

from __future__ import annotations

from typing import Annotated, Final

import typer
from rich.table import Table

from agent_persistence import migrate
from agent_persistence.cli.confirmation import confirm
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.options import DryRun, Json, Yes
from agent_persistence.cli.output import out, working, write_json
from agent_persistence.cli.servers import configured, run
from agent_persistence.migrate.optional import OBJECTS

app: Final = typer.Typer(no_args_is_help=True, help="List, add and remove optional objects of the schema.")


def _names() -> list[str]:
    return list(OBJECTS)


def _known(name: str) -> str:
    if name not in OBJECTS:
        raise typer.BadParameter(f"must be one of {', '.join(OBJECTS)}")
    return name


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help=f"One of {', '.join(OBJECTS)}.",
        show_default=False,
        autocompletion=_names,
        callback=_known,
    ),
]


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the optional objects, and which of them this database has.

    Example: `agent-persistence optional list`
    """
    found = run(migrate.list_optional)
    if as_json:
        write_json(found)
    else:
        out.print(_table(found))


@app.command()
def add(
    name: Name,
    *,
    dims: Annotated[
        int | None, typer.Option("--dims", metavar="N", help="Of vectors: how many numbers each has.")
    ] = None,
    half: Annotated[bool, typer.Option("--half", help="Of vectors: 16 bits a number instead of 32.")] = False,
    as_json: Json = False,
) -> None:
    """Add an optional object, or update it. Traffic continues, also while an index is built.

    Example: `agent-persistence optional add thread-meta`
    """
    with configured() as settings, working(f"Adding {name}"):
        run_until_terminated(migrate.add_optional(settings, name, dims=dims, half=half))
    _say(name, as_json=as_json, on=True)


@app.command()
def remove(name: Name, *, yes: Yes = False, dry_run: DryRun = False, as_json: Json = False) -> None:
    """Drop an optional object. Searches that used it are slow again, and policies protect no longer.

    Rows stay, except for vectors, which can be made from the items again.

    It asks first if the database has the object.

    Example: `agent-persistence optional remove thread-meta --yes`
    """
    with configured() as settings:
        is_on = run_until_terminated(migrate.list_optional(settings))[name]
        if dry_run:
            _say(name, as_json=as_json, on=is_on, dry_run=True)
            return
        if is_on:
            confirm(f"remove {name}: {OBJECTS[name].summary}", yes=yes)
        with working(f"Removing {name}"):
            run_until_terminated(migrate.remove_optional(settings, name))
    _say(name, as_json=as_json, on=False)


def _say(name: str, *, as_json: bool, on: bool, dry_run: bool = False) -> None:
    if as_json:
        write_json({"name": name, "on": on, "dry_run": dry_run})
    elif dry_run:
        out.print(f"{name} would be removed" if on else f"{name} is off already")
    else:
        out.print(f"{name} is {'on' if on else 'off'}")


def _table(found: dict[str, bool]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, is_on in found.items():
        table.add_row("on" if is_on else "off", name, OBJECTS[name].summary)
    return table
