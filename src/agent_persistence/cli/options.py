"""Options of several commands."""

from __future__ import annotations

from typing import Annotated

import typer

from agent_persistence.cli.output import say_for_whom

Json = Annotated[bool, typer.Option("--json", help="Write one line of JSON to standard output.", callback=say_for_whom)]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only this owner's threads; all if left out.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask. Pipelines need it.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be deleted, and change nothing.")]
