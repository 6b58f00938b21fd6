"""``optional``: adds and removes optional objects of the schema."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

import typer
from rich.table import Table

from agent_persistence import migrate
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import out, write_json
from agent_persistence.cli.servers import run
from agent_persistence.migrate.optional import OBJECTS

app: Final = typer.Typer(no_args_is_help=True, help="List, add and remove optional objects of the schema.")

Name = Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(OBJECTS)}.", show_default=False)]


@app.command("list")
def list_(*, as_json: Json = False) -> None:
    """List the optional objects, and which of them this database has."""
    found = run(migrate.list_optional)
    if as_json:
        write_json(found)
    else:
        out.print(_table(found))


@app.command()
def add(name: Name) -> None:
    """Add an optional object, or update it. Traffic continues."""
    run(partial(migrate.add_optional, name=name), changes=True)
    out.print(f"{name} is on")


@app.command()
def remove(name: Name) -> None:
    """Remove an optional object."""
    run(partial(migrate.remove_optional, name=name), changes=True)
    out.print(f"{name} is off")


def _table(found: dict[str, bool]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, is_on in found.items():
        table.add_row("on" if is_on else "off", name, OBJECTS[name].summary)
    return table
