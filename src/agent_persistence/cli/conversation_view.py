"""Messages as a table: a row each, with the role on the left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from agent_persistence.cli.output import visible
from agent_persistence.records import MessageRecord, Page

_STYLES: Final = {"user": "bold cyan", "assistant": "bold green", "tool": "bold magenta", "system": "bold yellow"}
_LONGEST_TEXT: Final = 600
_LONGEST_ARGUMENTS: Final = 120


def conversation_table(page: Page[MessageRecord[Any]], *, full: bool) -> Table:
    """Return messages as a table; long ones are truncated unless ``full``."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for record in page:
        role = Text(visible(record.role), style=_STYLES.get(record.role, "bold"))
        table.add_row(role, Text("\n").join(_parts(record, full=full)))
    return table


def _parts(record: MessageRecord[Any], *, full: bool) -> Iterator[Text]:
    if record.text:
        yield _cut(visible(record.text), None if full else _LONGEST_TEXT)
    # Of a message only role and content are checked when it is stored, so tool calls can have any shape.
    for call in record.tool_calls if isinstance(record.tool_calls, list) else ():
        yield _tool_call(call, None if full else _LONGEST_ARGUMENTS)


def _tool_call(call: Any, longest: int | None) -> Text:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return _cut(f"calls {visible(json.dumps(call, ensure_ascii=False))}", longest)
    name, arguments = function.get("name"), function.get("arguments")
    shown = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return Text(f"calls {visible(name)} ", style="magenta").append_text(_cut(visible(shown), longest))


def _cut(text: str, longest: int | None) -> Text:
    if longest is None or len(text) <= longest:
        return Text(text)
    return Text(text[:longest]).append(f" … {len(text) - longest:,} more characters", style="dim")
