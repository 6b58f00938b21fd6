"""The question before something is deleted."""

from __future__ import annotations

import sys

import typer

from agent_persistence.cli.failures import ExitCode
from agent_persistence.errors import InvalidInputError


def confirm(what: str, *, yes: bool) -> None:
    """Ask on a terminal whether to do it; end the command with 1 if the answer is no.

    Args:
        what: the deletion, as in "delete 7 states".
        yes: whether ``--yes`` was given, which is not asked about again.

    Raises:
        InvalidInputError: there is nobody to ask, as in a pipeline.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInputError("--yes", f"is needed to {what}")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}. Go on?", err=True):
        raise typer.Exit(ExitCode.WRONG)
