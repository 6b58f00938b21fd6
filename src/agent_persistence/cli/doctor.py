"""``doctor``: checks for known faults of an installation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, Final

import typer
from dotenv import dotenv_values
from rich.table import Table
from rich.text import Text

from agent_persistence.cli.checkup import Finding, Level, examine_database
from agent_persistence.cli.checkup_cache import examine_cache, examine_values
from agent_persistence.cli.checkup_sweeper import examine_sweeper
from agent_persistence.cli.failures import ExitCode
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import out, visible, write_json
from agent_persistence.cli.servers import run
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

_PACKAGES: Final = ("agent-persistence", "sqlalchemy", "asyncpg", "alembic", "redis")
_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(*, as_json: Json = False) -> None:
    """Check versions, connections, schema, indexes and cache, and print a remedy for each fault."""
    findings = run(_examine)
    failed = _has_failed(findings)
    if as_json:
        write_json({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        out.print(_table(findings))
    raise typer.Exit(ExitCode.WRONG if failed else ExitCode.OK)


async def _examine(settings: PersistenceSettings) -> list[Finding]:
    # An application stops calling a slow cache; here it is to be measured.
    patient = settings.model_copy(update={"cache_timeout_ms": 2_000, "cache_budget_ms": 4_000})
    persistence = Persistence[Any, Any](patient)
    try:
        findings = [
            _versions(),
            *_unread_variables(),
            *await examine_database(persistence.engine, settings),
            *await examine_cache(settings),
        ]
        # Later checks need both servers and the schema, and would only report the same fault in other words.
        if _has_failed(findings):
            return findings
        swept = await examine_sweeper(persistence.engine, settings)
        return [*findings, *swept, *await examine_values(persistence)]
    finally:
        await persistence.aclose()


def _has_failed(findings: list[Finding]) -> bool:
    return any(finding.level is Level.FAIL for finding in findings)


def _versions() -> Finding:
    packages = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return Finding(Level.OK, "versions", f"Python {platform.python_version()}, {packages}")


def _unread_variables() -> Iterator[Finding]:
    """Find variables with our prefix that nobody reads; their names are misspelt, or of another version."""
    known = {f"PERSISTENCE_{name.upper()}" for name in PersistenceSettings.model_fields}
    given = {name.upper() for name in (*os.environ, *dotenv_values(".env")) if name.upper().startswith("PERSISTENCE_")}
    for name in sorted(given - known):
        meant = get_close_matches(name, known, 1)
        remedy = f"rename it to {meant[0]}" if meant else "remove it"
        yield Finding(Level.WARN, "settings", f"{name} is not read", remedy)


def _table(findings: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column()
    # Folded and not cut, so that addresses and commands can be copied.
    table.add_column(overflow="fold")
    for finding in findings:
        level = Text(finding.level, style=_STYLES[finding.level])
        table.add_row(level, Text(finding.subject), Text(visible(finding.detail), overflow="fold"))
        if finding.remedy is not None:
            table.add_row("", "", Text(f"-> {visible(finding.remedy)}", style="bold", overflow="fold"))
    return table
