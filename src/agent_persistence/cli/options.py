"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Write JSON for machines, and nothing else, to standard output.")]
User = Annotated[str | None, typer.Option("--user", metavar="ID", help="Only this owner's threads; without it, all.")]
