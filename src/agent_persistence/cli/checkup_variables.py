"""The checks of ``doctor`` on the variables that it is given."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches

from agent_persistence.cli.failures import ExitCode
from agent_persistence.cli.finding import Finding, Level
from agent_persistence.cli.servers import DATABASE_URL, NAME_IT, is_unnamed, why_unnamed
from agent_persistence.cli.variables import given_variables
from agent_persistence.settings import PersistenceSettings


def examine_variables(settings: PersistenceSettings) -> Iterator[Finding]:
    """Find variables with our prefix that nobody reads, and a database that is not named, or by another variable."""
    given = given_variables()
    known = {f"PERSISTENCE_{name.upper()}" for name in PersistenceSettings.model_fields}
    # Misspelt, or of another version.
    for name in sorted(name for name in given - known if name.startswith("PERSISTENCE_")):
        meant = get_close_matches(name, known, 1)
        remedy = f"rename it to {meant[0]}" if meant else "remove it"
        yield Finding(Level.WARN, "settings", f"{name} is not read", remedy)
    if is_unnamed(settings):
        yield Finding(Level.FAIL, "database", f"{DATABASE_URL} {why_unnamed()}", NAME_IT, ExitCode.USAGE)
