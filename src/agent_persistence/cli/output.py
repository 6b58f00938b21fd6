"""Output for terminals and scripts, without characters that could control a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn
from rich.text import Text

out: Final = Console(highlight=False)
err: Final = Console(stderr=True, highlight=False)

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


@contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere; ``total`` is ``None`` if unknown."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(show_speed=True))
    # On standard error, because standard output may be the exported file.
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        yield partial(progress.advance, progress.add_task(what, total=total))
