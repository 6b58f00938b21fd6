"""``doctor``: checks for known faults of an installation."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any, Final

import typer
from rich.table import Table
from rich.text import Text

from agent_persistence.cli.checkup import examine_database
from agent_persistence.cli.checkup_cache import examine_cache, examine_values
from agent_persistence.cli.checkup_sweeper import examine_sweeper
from agent_persistence.cli.checkup_variables import examine_variables
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.failures import ExitCode
from agent_persistence.cli.finding import Finding, Level
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import out, visible, working, write_json
from agent_persistence.cli.servers import configured, is_unnamed
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

_PACKAGES: Final = ("agent-persistence", "sqlalchemy", "asyncpg", "alembic", "redis")
_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(*, as_json: Json = False) -> None:
    """Check settings, versions, connections, schema, indexes and cache, and print a remedy for each fault.

    It changes nothing but two keys in Redis, which it deletes. The exit code is 3 if the database cannot be reached, 2
    if none is named, and 1 for another fault; warnings are none.

    Example: `agent-persistence doctor`
    """
    settings = PersistenceSettings()
    findings = [_versions(), *examine_variables(settings)]
    if not is_unnamed(settings):
        with configured() as addressed, working("Examining"):
            findings += run_until_terminated(_examine(addressed))
    code = max((finding.exit_code for finding in findings if finding.level is Level.FAIL), default=ExitCode.OK)
    if as_json:
        write_json({"ok": code is ExitCode.OK, "findings": [finding.as_json() for finding in findings]})
    else:
        out.print(_table(findings))
    raise typer.Exit(code)


async def _examine(settings: PersistenceSettings) -> list[Finding]:
    # An application stops calling a slow cache; here it is to be measured.
    patient = settings.model_copy(update={"cache_timeout_ms": 2_000, "cache_budget_ms": 4_000})
    persistence = Persistence[Any, Any](patient)
    try:
        findings = [*await examine_database(persistence.engine, settings), *await examine_cache(settings)]
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
