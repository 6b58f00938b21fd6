"""Output for terminals and scripts, without characters that could control a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)

_is_for_programs: ContextVar[bool] = ContextVar("is_for_programs", default=False)
_KEPT: Final = "\n\t"
# Stored texts are other people's: escape sequences could rewrite the terminal's title or what was printed before, and
# marks of direction could show a text in another order. ESC becomes the picture of ESC.
_C0: Final = {code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT}
_INVISIBLE: Final = (0x7F, *range(0x80, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_VISIBLE: Final[dict[int, int | str]] = {**_C0, **dict.fromkeys(_INVISIBLE, "\N{REPLACEMENT CHARACTER}")}


def visible(text: object) -> str:
    """Return a text that is safe to print: escape sequences, controls and bidirectional marks are replaced."""
    return str(text).replace("\r\n", "\n").translate(_VISIBLE)


def note(text: str) -> None:
    """Print a note to standard error, apart from results."""
    err.print(Text(visible(text), style="dim"), soft_wrap=True)


def write_json(value: Any) -> None:
    """Print a result as JSON: one line of ASCII, which is safe for every terminal and encoding."""
    typer.echo(json.dumps(value, default=str))


def say_for_whom(as_json: bool) -> bool:  # noqa: FBT001 - typer passes it by position
    """Note whether the output is for a program (``--json``), which wants no progress bar."""
    _is_for_programs.set(as_json)
    return as_json


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere; ``total`` is ``None`` if unknown."""
    with _progress(BarColumn(), TaskProgressColumn(show_speed=True)) as progress:
        yield partial(progress.advance, progress.add_task(what, total=total))


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal what is being done, and for how long already, if its extent is not known."""
    with _progress(TimeElapsedColumn()) as progress:
        progress.add_task(what, total=None)
        yield


def _progress(*columns: ProgressColumn) -> Progress:
    # On standard error, because standard output may be the exported file. FORCE_COLOR makes a terminal of a
    # pipeline's log for rich, where each refresh of a bar would be a line.
    is_shown = err.file.isatty() and err.is_terminal and not err.is_dumb_terminal and not _is_for_programs.get()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *columns,
        console=err,
        transient=True,
        disable=not is_shown,
        # Otherwise results that are printed meanwhile would go to standard error.
        redirect_stdout=False,
    )
