"""``import-langgraph``: copies checkpoints from LangGraph's tables."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final

import typer

from agent_persistence.cli.failures import finish, say_error
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import note, progress_bar
from agent_persistence.cli.servers import run_on_data
from agent_persistence.errors import InvalidInputError, MissingExtraError
from agent_persistence.ids import IdType
from agent_persistence.persistence import Persistence
from agent_persistence.transfer.langgraph import ImportedThread, MessageWriter, import_threads, open_tables

_STRICT: Final = ("1", "true", "yes")  # as LangGraph reads it
_NOT_STRICT: Final = (
    "Warning: LangGraph's serialiser builds any class that a stored value names, so whoever could write to these "
    "tables can run code in a program that reads the imported threads. Set LANGGRAPH_STRICT_MSGPACK=true, here and "
    "where graphs run, unless you trust the source."
)


@dataclass(slots=True)
class _Total:
    threads: int = 0
    checkpoints: int = 0
    added: int = 0
    writes: int = 0
    differing: int = 0
    refused: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, thread: ImportedThread) -> None:
        self.threads += thread.refusal is None
        for name in ("checkpoints", "added", "writes", "differing"):
            setattr(self, name, getattr(self, name) + getattr(thread, name))

    def __str__(self) -> str:
        compared = "all equal" if not self.differing else f"{self.differing:,} differ"
        refused = f", {len(self.refused):,} threads refused" if self.refused else ""
        return (
            f"{self.threads:,} threads, {self.checkpoints:,} checkpoints ({self.added:,} new, {compared}), "
            f"{self.writes:,} writes{refused} in {self.seconds:.1f} s"
        )


def import_langgraph(
    *,
    source: Annotated[
        str,
        typer.Option("--from", metavar="URL", envvar="LANGGRAPH_POSTGRES_URI", help="The database with the tables."),
    ],
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="The owner of the threads.")] = None,
    user_key: Annotated[
        str | None,
        typer.Option("--user-key", metavar="KEY", help="The metadata key that holds the owner of a thread."),
    ] = None,
    mirror: Annotated[
        str,
        typer.Option("--mirror", metavar="CHANNEL", help="The channel whose messages are written as messages too."),
    ] = "messages",
    no_mirror: Annotated[bool, typer.Option("--no-mirror", help="Import checkpoints only.")] = False,
    as_json: Json = False,
) -> None:
    """Import checkpoints and messages from the tables of LangGraph's PostgreSQL checkpointer.

    Each thread is copied with its checkpoints and the writes of its tasks, and compared with its source, which is only
    read. Repeat the command after a failure, or when there are more: existing checkpoints are compared, and missing
    ones are added.

    Example: `agent-persistence import-langgraph --from postgresql://app@db/langgraph --user-key user_id`
    """
    if user is None and user_key is None:
        raise typer.BadParameter("give --user, --user-key or both: LangGraph's threads have no owner")
    if os.environ.get("LANGGRAPH_STRICT_MSGPACK", "").lower() not in _STRICT:
        note(_NOT_STRICT)
    total = run_on_data(partial(_import, source, user, user_key, None if no_mirror else mirror))
    result = {name: getattr(total, name) for name in total.__slots__}
    finish(result, str(total), as_json=as_json, is_complete=not (total.refused or total.differing))


async def _import(
    source: str, user: str | None, user_key: str | None, mirror: str | None, persistence: Persistence[Any, Any]
) -> _Total:
    kind = persistence.models.id_types.user
    default = None if user is None else kind.parse(user, "--user")

    def owner_of(metadata: Mapping[str, Any]) -> Any:
        found = None if user_key is None else metadata.get(user_key)
        if found is None and default is None:
            raise InvalidInputError("--user-key", "names nothing in the metadata; give --user for such threads")
        return default if found is None else kind.parse(str(found), "--user-key")

    total, started = _Total(), time.monotonic()
    async with open_tables(source) as tables:
        with progress_bar("Importing", None) as advance:
            threads = import_threads(
                tables,
                persistence,
                owner_of=owner_of,
                owner_key=user_key,
                messages=_writer(mirror, persistence.models.id_types.id),
            )
            async for thread in threads:
                advance(1)
                total.count(thread)
                if thread.refusal is not None:
                    total.refused.append({"thread_id": thread.thread_id, "reason": thread.refusal})
                    say_error(f"thread {thread.thread_id}: {thread.refusal}")
    total.seconds = round(time.monotonic() - started, 3)
    return total


def _writer(channel: str | None, id_type: IdType[Any]) -> Callable[[], MessageWriter] | None:
    """Return what makes the writer of each thread's messages; ``None`` if none are written."""
    if channel is None:
        return None
    if id_type.python_type is int:
        note("No messages are written: ids are numbers, and a message of a graph keeps its own.")
        return None
    try:
        from agent_persistence.integrations.langgraph.imported_messages import ImportedMessages  # noqa: PLC0415 - an extra
    except MissingExtraError as error:
        note(f"No messages are written: {error}")
        return None
    return partial(ImportedMessages, channel, id_type)
