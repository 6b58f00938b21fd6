"""How a command ends that cannot do what it was asked."""

from __future__ import annotations

import traceback
from enum import IntEnum

from rich.text import Text

from agent_persistence.cli.output import err, note, visible
from agent_persistence.errors import (
    DatabaseError,
    EmbeddedServerError,
    InvalidInputError,
    MissingExtraError,
    PersistenceError,
    SettingsError,
    UnavailableError,
)

_LOGIN_REFUSED = ("28", "3D")  # classes of sqlstates: who you are, and which database you want


class ExitCode(IntEnum):
    """What the caller's shell gets."""

    OK = 0
    WRONG = 1
    USAGE = 2
    UNREACHABLE = 3


def exit_code_of(error: PersistenceError | OSError) -> ExitCode:
    """Return the exit code that stands for this error."""
    if isinstance(error, SettingsError | InvalidInputError | MissingExtraError):
        return ExitCode.USAGE
    if isinstance(error, EmbeddedServerError) or _no_connection(error):
        return ExitCode.UNREACHABLE
    return ExitCode.WRONG


def say_error(text: str) -> None:
    """Write one red line."""
    err.print(Text(f"error: {visible(text)}", style="red"), soft_wrap=True)


def report(error: PersistenceError | OSError, *, debug: bool) -> None:
    """Say what went wrong and what to do, in one line; with ``debug``, where."""
    if debug:
        traceback.print_exception(error)
    say_error(describe(error))
    if not debug and exit_code_of(error) is ExitCode.WRONG and error.__cause__ is not None:
        note("agent-persistence --debug COMMAND ... shows where it came from")


def describe(error: PersistenceError | OSError) -> str:
    """Return the error's text; where no connection came about, with the reason that the other side gave.

    Only there: what PostgreSQL says about a statement may repeat what is stored.
    """
    return f"{error} ({_root_cause(error)})" if _no_connection(error) and error.__cause__ else str(error)


def _no_connection(error: PersistenceError | OSError) -> bool:
    if isinstance(error, DatabaseError):
        return (error.sqlstate or "").startswith(_LOGIN_REFUSED)
    return isinstance(error, UnavailableError)


def _root_cause(error: BaseException) -> BaseException:
    while cause := getattr(error, "orig", None) or error.__cause__:
        error = cause
    return error
