"""Options of several commands."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Write only JSON to standard output.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only this owner's threads; all if left out.")]
