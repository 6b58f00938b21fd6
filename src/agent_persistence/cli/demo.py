"""``demo``: shows the package at work."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.table import Table
from rich.text import Text
from sqlalchemy import Row, text

from agent_persistence import migrate
from agent_persistence.cli.demo_checkpointers import Backend, demo_checkpointer
from agent_persistence.cli.demo_conversations import demo_lines
from agent_persistence.cli.event_loop import run_until_terminated
from agent_persistence.cli.options import Json
from agent_persistence.cli.output import out, visible, write_json
from agent_persistence.cli.servers import named_or_temporary
from agent_persistence.cli.view import print_conversation, read_conversation
from agent_persistence.persistence import Persistence
from agent_persistence.records import ThreadRecord
from agent_persistence.settings import PersistenceSettings
from agent_persistence.transfer.conversations import NAMESPACE, ConversationImporter, import_lines

_OWNERS: Final[dict[type, Any]] = {str: "demo", int: 1, uuid.UUID: uuid.uuid5(NAMESPACE, "demo")}
_THREADS: Final = """\
SELECT thread_id, thread_name, count(DISTINCT seq) AS messages,
       count(DISTINCT state_id) AS states
FROM threads LEFT JOIN messages USING (thread_id) LEFT JOIN states USING (thread_id)
WHERE user_id = :user_id GROUP BY thread_id ORDER BY threads.created_at LIMIT 6"""
_STATES: Final = """\
SELECT state_id, state_data::text AS state_data FROM states
WHERE thread_id = :thread_id ORDER BY state_id DESC LIMIT 3"""
_NEXT: Final = """\
  export PERSISTENCE_DATABASE_URL=embedded   servers in a folder that stays
  agent-persistence upgrade                  its tables
  agent-persistence import FILE              your own conversations, as JSON Lines
  agent-persistence threads                  what is stored
  agent-persistence doctor                   whether all is well
  agent-persistence --help                   everything else"""


def demo(
    backend: Annotated[
        Backend | None, typer.Option(help="Show the checkpointer of this backend instead.", show_default=False)
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Show the package at work: servers, migrations, conversations, the cache.

    Uses servers in a temporary folder that is removed afterwards, or those of PERSISTENCE_DATABASE_URL or
    PERSISTENCE_EMBEDDED_DIR, where its six conversations stay.

    Example: `agent-persistence demo`
    """
    out.quiet = as_json
    result = _show_package() if backend is None else demo_checkpointer(backend, _OWNERS)
    if as_json:
        write_json(result)


def _show_package() -> dict[str, Any]:
    started = time.perf_counter()
    _title("Starting PostgreSQL and Redis")
    with named_or_temporary() as settings:
        _done(started, "both accept connections")
        result = run_until_terminated(_demo(settings))
    out.print()
    out.print(Text("Where to go next", style="bold"))
    out.print(Text(_NEXT))
    return result


async def _demo(settings: PersistenceSettings) -> dict[str, Any]:
    started = time.perf_counter()
    _title("Upgrading the schema")
    await migrate.upgrade(settings)
    _done(started, f"at revision {migrate.head()}")
    async with Persistence[Any, Any](settings) as persistence:
        user_id = _OWNERS[persistence.models.id_types.user.python_type]
        imported = await _import(persistence, user_id)
        _title("What PostgreSQL holds")
        rows = await _select(persistence, _THREADS, user_id=user_id)
        threads = [await persistence.threads.require(row.thread_id, user_id=user_id) for row in rows]
        await _select(persistence, _STATES, thread_id=threads[0].thread_id)
        reads = await _read_twice(settings, threads)
        _title("A conversation")
        print_conversation(threads[0], *await read_conversation(persistence, threads[0], 50))
    return {"revision": migrate.head(), **imported, "threads": [row.thread_id for row in rows], "reads": reads}


async def _import(persistence: Persistence[Any, Any], user_id: Any) -> dict[str, int]:
    started = time.perf_counter()
    _title("Importing conversations")
    importer = ConversationImporter(persistence, user_id)
    lines = [line async for line in import_lines(importer, demo_lines())]
    messages = sum(line.messages for line in lines)
    _done(started, f"{len(lines)} conversations, {messages} messages, one state per turn")
    return {"conversations": len(lines), "messages": messages}


async def _select(persistence: Persistence[Any, Any], statement: str, **values: Any) -> list[Row[Any]]:
    out.print(Text(statement, style="cyan"))
    async with persistence.engine.connect() as connection:
        if persistence.settings.db_schema is not None:
            search_path = {"schema": persistence.settings.db_schema}
            await connection.execute(text("SELECT set_config('search_path', :schema, true)"), search_path)
        result = await connection.execute(text(statement), values)
        rows = list(result)
    table = Table(*result.keys(), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(visible(cell), overflow="ellipsis", no_wrap=True) for cell in row))
    out.print(table)
    return rows


async def _read_twice(
    settings: PersistenceSettings, threads: list[ThreadRecord[Any, Any]]
) -> list[dict[str, float | bool]]:
    reads: list[dict[str, float | bool]] = []
    _title("Reading a latest state through a cache that does not know it yet")
    if settings.redis_url is None:
        out.print("no cache: PERSISTENCE_REDIS_URL is not set")
        return reads
    # A namespace that no earlier run has used, so that the first read is a miss.
    empty = settings.model_copy(update={"cache_namespace": f"{settings.cache_namespace}-demo-{uuid.uuid4()}"})
    async with Persistence[Any, Any](empty) as persistence:
        # Opens the connections, whose time must not count for the other reads.
        await _timed_read(persistence, threads[1])
        for _ in range(2):
            took_ms, hit = await _timed_read(persistence, threads[0])
            what = "hit:  Redis had it" if hit else "miss: PostgreSQL was asked, and Redis knows it now"
            out.print(Text(f"{took_ms:6.2f} ms  {what}"))
            reads.append({"ms": round(took_ms, 3), "hit": hit})
    return reads


async def _timed_read(persistence: Persistence[Any, Any], thread: ThreadRecord[Any, Any]) -> tuple[float, bool]:
    hits_before = (await persistence.health()).cache_counts["hits"]
    started = time.perf_counter()
    await persistence.states.require(thread.thread_id, user_id=thread.user_id)
    took_ms = (time.perf_counter() - started) * 1000
    return took_ms, (await persistence.health()).cache_counts["hits"] > hits_before


def _title(what: str) -> None:
    out.print()
    out.print(Text(what, style="bold"))


def _done(started: float, what: str) -> None:
    out.print(Text(f"{what} ({time.perf_counter() - started:.1f} s)"))
