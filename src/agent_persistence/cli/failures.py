"""Errors and exit codes of commands."""

from __future__ import annotations

import traceback
from enum import IntEnum
from typing import Any

import typer
from rich.text import Text

from agent_persistence.cli.output import err, note, visible, write_json
from agent_persistence.errors import (
    DatabaseError,
    EmbeddedServerError,
    InvalidInputError,
    MissingExtraError,
    PersistenceError,
    SettingsError,
    UnavailableError,
)

_LOGIN_REFUSED = ("28", "3D")  # classes of sqlstates: refused authorization, unknown database


class ExitCode(IntEnum):
    """The exit codes."""

    OK = 0
    WRONG = 1
    USAGE = 2
    UNREACHABLE = 3
    INTERRUPTED = 130  # by SIGINT or SIGTERM; typer turns KeyboardInterrupt into it


def exit_code_of(error: PersistenceError | OSError) -> ExitCode:
    """Return the exit code for an error."""
    if isinstance(error, SettingsError | InvalidInputError | MissingExtraError):
        return ExitCode.USAGE
    if isinstance(error, EmbeddedServerError) or no_connection(error):
        return ExitCode.UNREACHABLE
    return ExitCode.WRONG


def finish(result: Any, summary: str, *, as_json: bool, is_complete: bool) -> None:
    """Print the result of an import or export, as JSON or as one line; exit with 1 if it is not complete."""
    if as_json:
        write_json(result)
    else:
        note(summary)
    if not is_complete:
        raise typer.Exit(ExitCode.WRONG)


def say_error(text: str) -> None:
    """Print one red line to standard error."""
    err.print(Text(f"error: {visible(text)}", style="red"), soft_wrap=True)


def report(error: PersistenceError | OSError, *, debug: bool) -> None:
    """Print an error and its remedy in one line; with ``debug``, the traceback too."""
    if debug:
        traceback.print_exception(error)
    say_error(describe(error))
    if not debug and exit_code_of(error) is ExitCode.WRONG and error.__cause__ is not None:
        note("agent-persistence --debug COMMAND ... shows where it came from")


def describe(error: PersistenceError | OSError) -> str:
    """Return the text of an error; if no connection was made, with the server's reason.

    Only then: PostgreSQL's text about a statement may repeat stored values.
    """
    return f"{error} ({_root_cause(error)})" if no_connection(error) and error.__cause__ else str(error)


def no_connection(error: PersistenceError | OSError) -> bool:
    """Whether an error says that no connection was made."""
    if isinstance(error, DatabaseError):
        return (error.sqlstate or "").startswith(_LOGIN_REFUSED)
    return isinstance(error, UnavailableError)


def _root_cause(error: BaseException) -> BaseException:
    while cause := getattr(error, "orig", None) or error.__cause__:
        error = cause
    return error
