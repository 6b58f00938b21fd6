"""``import`` and ``export``: conversations as JSON Lines."""

from __future__ import annotations

import gc
import os
import stat
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated, Any, BinaryIO, Final, cast

import typer

from agent_persistence.cli.failures import finish, say_error
from agent_persistence.cli.options import Json, User
from agent_persistence.cli.output import note, progress_bar
from agent_persistence.cli.servers import owner, run_on_data
from agent_persistence.persistence import Persistence
from agent_persistence.transfer.conversations import (
    NAMESPACE,
    ConversationImporter,
    Outcome,
    export_conversations,
    import_lines,
)

_OBJECTS: Final = 100_000
# Fixed for each type of user id, so that a repeated import finds its threads again.
_IMPORTING_OWNER: Final[dict[type, Any]] = {str: "import", int: 1, uuid.UUID: uuid.uuid5(NAMESPACE, "import")}


@dataclass(slots=True)
class _Imported:
    user_id: Any
    outcomes: Counter[Outcome | None] = field(default_factory=Counter)
    messages: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        counts = {outcome.value: self.outcomes[outcome] for outcome in Outcome}
        return {
            "user_id": self.user_id,
            **counts,
            "refused": self.refused,
            "messages": self.messages,
            "seconds": round(self.seconds, 3),
        }

    def __str__(self) -> str:
        counts = [f"{self.outcomes[outcome]:,} {outcome}" for outcome in Outcome if self.outcomes[outcome]]
        refused = [f"{len(self.refused):,} refused"] if self.refused else []
        conversations = ", ".join(counts + refused) or "none"
        return f"conversations of {self.user_id}: {conversations} ({self.messages:,} messages) in {self.seconds:.1f} s"


def import_(
    file: Annotated[typer.FileBinaryRead, typer.Argument(metavar="FILE", help="The file; - is standard input.")],
    *,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", help='The owner of the threads; by default "import", 1 or a fixed UUID.'),
    ] = None,
    skip_invalid: Annotated[bool, typer.Option("--skip-invalid", help="Report refused lines, and continue.")] = False,
    as_json: Json = False,
) -> None:
    """Import JSON Lines of chat-completions conversations.

    A line is {"id": ..., "source": ..., "messages": [...]}; only the messages are required. Each conversation becomes a
    thread with its messages and one state per turn, in one transaction. Repeat the command after a failure, or with
    a longer file: existing messages are left unchanged, and missing ones are added.

    Example: `agent-persistence import conversations.jsonl --user ada`
    """
    imported = run_on_data(partial(_import, file, user, skip_invalid=skip_invalid))
    if imported.refused and not skip_invalid:
        note("stopped there; correct the line and run the command again, or give --skip-invalid")
    finish(imported.as_json(), str(imported), as_json=as_json, is_complete=not imported.refused)


def export(
    *,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Where to, for its owner only; without it, standard output."),
    ] = None,
    user: User = None,
    as_json: Json = False,
) -> None:
    """Export threads as JSON Lines in the order of their creation, with the archived ones.

    Imported conversations are exported equal, field for field. Other threads have their thread id as "id", and no
    further fields. An existing FILE is replaced once the export is complete.

    Example: `agent-persistence export --output conversations.jsonl`
    """
    if as_json and output is None:
        raise typer.BadParameter("needs --output: standard output carries the conversations", param_hint="--json")
    with _opened(output) as file:
        exported = run_on_data(partial(_export, file, user))
    if exported["unreadable"]:
        say_error(f"{exported['unreadable']} messages cannot be read, and were left out")
    summary = "exported {conversations:,} conversations ({messages:,} messages)".format_map(exported)
    finish(exported, summary, as_json=as_json, is_complete=not exported["unreadable"])


async def _import(
    file: BinaryIO, user: str | None, persistence: Persistence[Any, Any], *, skip_invalid: bool
) -> _Imported:
    kind = persistence.models.id_types.user
    user_id = _IMPORTING_OWNER[kind.python_type] if user is None else kind.parse(user, "--user")
    importer, imported, started = ConversationImporter(persistence, user_id), _Imported(user_id), time.monotonic()
    with progress_bar("Importing", _size_of(file)) as advance, _few_collections():
        async for line in import_lines(importer, file):
            advance(line.size_bytes)
            imported.outcomes[line.outcome] += 1
            imported.messages += line.messages
            if line.refusal is not None:
                imported.refused.append({"line": line.number, "reason": line.refusal})
                say_error(f"line {line.number}: {line.refusal}")
                if not skip_invalid:
                    break
    imported.seconds = time.monotonic() - started
    return imported


@contextmanager
def _few_collections() -> Iterator[None]:
    """Run the garbage collector rarely: millions of objects are created here, and it took a quarter of the time."""
    thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


async def _export(file: BinaryIO, user: str | None, persistence: Persistence[Any, Any]) -> Counter[str]:
    exported = Counter(conversations=0, messages=0, unreadable=0)
    with progress_bar("Exporting", None) as advance:
        async for conversation in export_conversations(persistence, owner(persistence, user), file.write):
            advance(1)
            exported.update(conversations=1, messages=conversation.messages, unreadable=conversation.unreadable)
    # A full disk is an error here, while it can still be reported, and not when Python closes the file.
    file.flush()
    return exported


@contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Open the file to write: one that only its owner can read, and that has its name once it is whole."""
    if output is None or str(output) == "-":
        yield typer.get_binary_stream("stdout")
        return
    target = output.resolve()  # of a link, its target is replaced
    if target.exists() and not target.is_file():  # a device or a pipe, which cannot be replaced
        with target.open("wb") as file:
            yield file
        return
    # Beside the target, because a file cannot be renamed to another disk. It is made with the mode 0600.
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:200]}.", delete=False) as file:
        try:
            yield cast("BinaryIO", file)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _size_of(file: BinaryIO) -> int | None:
    """Return the size of a file; ``None`` for a pipe."""
    try:
        status = os.fstat(file.fileno())
    except OSError:
        return None
    # A pipe has the size 0, of which no share can be shown.
    return status.st_size if stat.S_ISREG(status.st_mode) else None
