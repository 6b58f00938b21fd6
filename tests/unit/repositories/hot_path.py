"""The statements of the hot path, by name.

``PYTHONPATH=tests python -m unit.repositories.hot_path`` writes them to ``hot_path.sql``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.shared_statement import shared
from agent_persistence.ids import STRING, IdTypes
from agent_persistence.models import Models, build_models
from agent_persistence.repositories import locks, tool_results
from agent_persistence.repositories.checkpoints import read_statements
from agent_persistence.repositories.checkpoints import statements as checkpoints
from agent_persistence.repositories.items import statements as items
from agent_persistence.repositories.messages import copy
from agent_persistence.repositories.messages import statements as messages
from agent_persistence.repositories.states import statements as states
from agent_persistence.repositories.states import stream_statements
from agent_persistence.repositories.threads import bulk
from agent_persistence.repositories.threads import statements as threads

SQL_FILE = Path(__file__).with_suffix(".sql")
_CLAUSES = ("FROM", "JOIN", "WHERE", "ORDER BY", "LIMIT", "ON CONFLICT", "RETURNING")
MODULES = (
    *(bulk, checkpoints, copy, items, locks, messages, read_statements, states, stream_statements),
    *(threads, tool_results),
)


def hot_path() -> Iterator[tuple[str, CompiledStatement]]:
    """Yield each statement as the repositories build it for string ids, in the forms that differ."""
    models = build_models(IdTypes(STRING, STRING))
    yield "lock and touch a thread", locks.lock_and_touch(models, touch_seconds=10.0, of_any_user=False)
    for one in (True, False):
        message, state = ("a message", "a state") if one else ("several messages", "several states")
        for with_ids in (True, False):
            name = f"append {message}, {'with ids' if with_ids else 'ids made by the database'}"
            yield name, messages.append_messages(models, with_ids=with_ids, touch_seconds=10.0, one=one)
        for changes in (True, False):
            name = f"save {state}, {'as changes' if changes else 'whole'}"
            yield name, states.save_states(models, touch_seconds=10.0, changes=changes, one=one)
    together = messages.append_messages(models, with_ids=True, touch_seconds=10.0, waits=False)
    yield "append messages of several callers, without waiting for locks", together
    yield "read back copied messages", copy.last_messages(models)
    yield "latest state", states.latest_state(models, of_any_user=False, knows=False)
    yield "latest state, for administration", states.latest_state(models, of_any_user=True, knows=False)
    yield (
        "latest state and what it rests on, but for what the reader has",
        states.latest_state(models, of_any_user=False, knows=True),
    )
    yield "latest states of several callers", states.latest_states(models, knows=False)
    yield "latest states and what they rest on, but for what the readers have", states.latest_states(models, knows=True)
    yield "chunk of a streamed state", stream_statements.read_chunk(models, of_any_user=False)
    yield "states by their marks, after a lost reply", states.saved_states(models)
    yield "versions on which changes rest", states.links_of_states(models)
    yield "lock a thread to compare versions", states.lock_to_compare(models, of_any_user=False)
    yield "latest version", states.latest_version(models)
    yield "latest versions of several threads", shared(states.latest_version(models))
    yield "delete all states of a locked thread", states.delete_due(models, keeps=False)
    yield "delete old states of a locked thread", states.delete_due(models, keeps=True, ages=True)
    yield "lock a thread", locks.lock_one(models, of_any_user=False)
    yield "lock a thread, and read it", threads.lock_and_read(models, of_any_user=False)
    yield "lock several threads, without waiting", locks.lock_several(models)
    yield "thread", threads.one_thread(models, of_any_user=False)
    yield "threads of several callers", shared(threads.one_thread(models, of_any_user=False))
    yield "first page of threads", threads.page_of_threads(models, of_any_user=False)
    further = threads.page_of_threads(models, of_any_user=False, continues=True, searches=True, filters=True)
    yield "further page of threads, with every filter", further
    names = ("thread_name", "meta", "archived_at")
    yield "add a thread", threads.add_thread(models, with_id=True)
    yield "change a thread", threads.change_thread(models, names, of_any_user=False)
    yield "change several threads", threads.change_threads(models, ("thread_name", "meta"))
    yield "record the results of several tool calls", tool_results.record_results(models)
    yield "delete a thread", threads.delete_thread(models, of_any_user=False)
    yield "recorded result of a tool call", tool_results.recorded_result(models, of_any_user=False)
    yield "record the result of a tool call", tool_results.record_result(models, of_any_user=False)
    yield "add threads", bulk.insert_threads(models)
    yield from _of_messages(models)
    yield from _of_items(models)
    yield from _of_graphs()


def _of_messages(models: Models[Any, Any]) -> Iterator[tuple[str, CompiledStatement]]:
    yield "page of messages after a cursor", messages.page_of_messages(models, backwards=False)
    yield "page of messages before a cursor", messages.page_of_messages(models, backwards=True)
    every = messages.page_of_messages(models, backwards=True, asides="all")
    yield "page of messages and asides before a cursor", every
    yield "page of messages that contain a text", messages.page_of_messages(models, backwards=True, searches=True)
    yield "messages by their ids", messages.chosen_messages(models, of_any_user=False)
    yield "message", messages.chosen_messages(models, of_any_user=False, one=True)
    yield "change a message", messages.change_message(models, ("role", "content", "meta"), of_any_user=False)
    yield "delete a message", messages.delete_message(models, of_any_user=False)
    yield "delete all messages of a locked thread", messages.clear_messages(models)
    yield "delete messages of several threads", messages.delete_messages(models)
    yield "pages of messages of several callers", shared(messages.page_of_messages(models, backwards=True))


def _of_items(models: Models[Any, Any]) -> Iterator[tuple[str, CompiledStatement]]:
    yield "item", items.read_item(models)
    yield "items of several callers", shared(items.read_item(models))
    yield "items by their keys", items.read_items(models)
    yield "page of items below a namespace", items.search_items(models, below=True)
    shape = (("$eq", "json"), ("$gt", "string"))
    yield "page of items by a filter, of several callers", shared(items.search_items(models, below=True, shape=shape))
    yield "namespaces with items", items.walk_namespaces(models, below=False)
    yield "namespaces with items, below one", items.walk_namespaces(models, below=True)
    yield "put items", items.put_items(models)
    for one in (True, False):
        name = "put an item" if one else "put items of several callers"
        yield f"{name}, without waiting for locks", items.put_unlocked_items(models, one=one)
    yield "grant items their time to live again", items.refresh_items(models)
    yield "delete items", items.delete_items(models)
    yield "delete all items below a namespace", items.clear_items(models, below=True)


def _of_graphs() -> Iterator[tuple[str, CompiledStatement]]:
    models = build_models(IdTypes(STRING, STRING))
    for name, builder in sorted((vars(checkpoints) | vars(read_statements)).items()):
        if not builds_a_statement(builder):
            continue
        options = {"touch_seconds": 10.0} if "touch_seconds" in builder.__annotations__ else {}
        options |= {"of_any_user": False} if "of_any_user" in builder.__annotations__ else {}
        yield f"graphs: {name.replace('_', ' ')}", builder(models, **options)
        if "one" in builder.__annotations__:
            yield f"graphs: {name.replace('_', ' ')}, one", builder(models, one=True, **options)


def builds_a_statement(found: object) -> bool:
    """Whether a module's member is a function that compiles a statement once."""
    return hasattr(found, "cache_info") and getattr(found, "__annotations__", {}).get("return") == "CompiledStatement"


def rendered() -> str:
    """Return all statements as SQL."""
    blocks = [f"-- {name}\n{_lines(statement.text)};\n" for name, statement in hot_path()]
    return "\n".join(blocks)


def _lines(sql: str) -> str:
    """Put the large clauses on lines of their own."""
    for clause in _CLAUSES:
        sql = sql.replace(f" {clause} ", f"\n{clause} ")
    sql = sql.replace(" LEFT OUTER\nJOIN ", "\nLEFT OUTER JOIN ").replace("\n ", "\n")
    return "\n".join(line.rstrip() for line in sql.splitlines() if line.strip())


if __name__ == "__main__":
    SQL_FILE.write_text(rendered())
