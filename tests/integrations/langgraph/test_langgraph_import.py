"""``import-langgraph``: from the tables that LangGraph's own checkpointer has written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import asyncpg
import pytest
from checkpoints import config_of, put
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from test_langgraph_deleting import logger
from test_langgraph_graphs import shop
from typer.testing import CliRunner

from agent_persistence import Persistence, PersistenceSettings, ThreadRecord, migrate
from agent_persistence.cli.app import app
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.transfer.langgraph import import_threads, open_tables
from graphs import Conversation


def fill(url: str) -> dict[str, Any]:
    """Have LangGraph's own checkpointer write two threads; return what it reads of them."""
    with PostgresSaver.from_conn_string(url) as theirs:
        theirs.setup()
        graph = shop().compile(checkpointer=theirs)
        config: Any = {"configurable": {"thread_id": "t-shop", "user_id": "ada"}}
        graph.invoke({"messages": [HumanMessage("a bike", id="h-1")]}, config)
        graph.invoke(Command(resume=True), config)
        delta = logger(9).compile(checkpointer=theirs)
        delta.invoke({"lines": ["first"], "rare": [], "count": 0}, config_of("t-delta"))
        return {"shop": list(theirs.list(config)), "delta": delta.get_state(config_of("t-delta")).values}


def plain(listed: list[Any]) -> list[Any]:
    """Checkpoints without the order in which dicts have their keys, and in one order."""
    rows = [
        (
            one.config["configurable"]["checkpoint_ns"],
            one.checkpoint,
            one.metadata,
            one.parent_config,
            one.pending_writes,
        )
        for one in listed
    ]
    return sorted(rows, key=lambda row: (row[0], row[1]["id"]))


@pytest.fixture
def database(make_database: Callable[[], Awaitable[str]]) -> str:
    return asyncio.run(make_database())


@pytest.fixture
def command(database: str) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        line = ["import-langgraph", "--from", database, *arguments]
        return CliRunner().invoke(app, line, env={"PERSISTENCE_DATABASE_URL": database})

    return run


def test_a_graph_goes_on_from_what_was_imported(database: str, command: Callable[..., Any]) -> None:
    before = fill(database)
    settings = PersistenceSettings(_env_file=None, database_url=database)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    asyncio.run(migrate.upgrade(settings))

    first = command("--user", "import", "--user-key", "user_id")
    again = command("--user", "import", "--user-key", "user_id", "--json")

    assert first.exit_code == 0, first.stderr
    assert "2 threads" in first.stderr
    assert "all equal" in first.stderr
    counted = json.loads(again.stdout)
    assert (counted["threads"], counted["added"], counted["differing"], counted["refused"]) == (2, 0, 0, [])
    assert counted["checkpoints"] > 10
    with PersistenceSaver(Persistence(settings), user_id="ada") as ours:
        listed = list(ours.list({"configurable": {"thread_id": "t-shop"}}))
        graph = shop().compile(checkpointer=ours)
        result = graph.invoke(Command(resume="Rome"), {"configurable": {"thread_id": "t-shop"}})
        delta = logger(9).compile(checkpointer=ours.for_user("import"))
        state = delta.get_state({"configurable": {"thread_id": "t-delta"}}).values
    for mine, theirs in zip(plain(listed), plain(before["shop"]), strict=True):
        assert mine[:3] == theirs[:3]
        assert mine[4] == theirs[4]
    assert result["notes"][-1] == "label: Rome"
    assert state == before["delta"]


def test_messages_of_imported_threads_are_seen_by_all(database: str, command: Callable[..., Any]) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=database)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    asyncio.run(migrate.upgrade(settings))
    with PostgresSaver.from_conn_string(database) as theirs:
        theirs.setup()
        graph = StateGraph(Conversation).add_node("say", lambda _: {"messages": [AIMessage("Hello.")]})
        app = graph.add_edge(START, "say").compile(checkpointer=theirs)
        for _ in range(2):
            app.invoke({"messages": [HumanMessage("Hi")]}, config_of("t-1"))
        app.invoke({"messages": [HumanMessage("Silent")]}, config_of("t-2"))
    silent = command("--user", "ada", "--no-mirror")

    async def said() -> list[list[str]]:
        async with Persistence[str, str](settings) as store:
            pages = [await store.messages.page(thread_id, user_id="ada") for thread_id in ("t-1", "t-2")]
            return [[message.text for message in page] for page in pages]

    assert silent.exit_code == 0, silent.stderr
    assert asyncio.run(said()) == [[], []]
    asyncio.run(_delete(settings, "t-1"))
    assert command("--user", "ada").exit_code == 0
    assert asyncio.run(said()) == [["Hi", "Hello.", "Hi", "Hello."], []]


async def _delete(settings: PersistenceSettings, thread_id: str) -> None:
    async with Persistence[str, str](settings) as store:
        await store.threads.delete(thread_id, user_id="ada")


def test_threads_keep_their_owners_and_times(database: str, command: Callable[..., Any]) -> None:
    """Also where the latest run began with a config that LangGraph made, which has no keys of the application."""
    settings = PersistenceSettings(_env_file=None, database_url=database)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    asyncio.run(migrate.upgrade(settings))
    with PostgresSaver.from_conn_string(database) as theirs:
        theirs.setup()
        graph = shop().compile(checkpointer=theirs)
        for thread_id in ("t-2", "t-1"):  # not in the order of their ids, in which they are imported
            config: Any = {"configurable": {"thread_id": thread_id, "user_id": "ada"}}
            graph.invoke({"messages": [HumanMessage("a bike")]}, config)
        graph.invoke(None, graph.get_state({"configurable": {"thread_id": "t-1"}}).config)
        listed = {name: list(theirs.list(config_of(name))) for name in ("t-1", "t-2")}
    assert "user_id" not in listed["t-1"][0].metadata

    assert command("--user", "import", "--user-key", "user_id").exit_code == 0
    sidebar = asyncio.run(_threads_of(settings, "ada"))
    times = {name: [datetime.fromisoformat(one.checkpoint["ts"]) for one in found] for name, found in listed.items()}

    assert [one.thread_id for one in sidebar] == ["t-1", "t-2"]
    for thread in sidebar:
        assert (thread.created_at, thread.updated_at) == (min(times[thread.thread_id]), max(times[thread.thread_id]))


def test_a_thread_that_is_active_here_stays_the_latest_one(database: str, command: Callable[..., Any]) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=database)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    asyncio.run(migrate.upgrade(settings))
    fill(database)
    command("--user", "u-1")
    with PersistenceSaver(Persistence(settings), user_id="u-1") as ours:
        shop().compile(checkpointer=ours).invoke(Command(resume="Rome"), config_of("t-shop"))
    with PostgresSaver.from_conn_string(database) as theirs:
        shop().compile(checkpointer=theirs).invoke(Command(resume="Paris"), config_of("t-shop"))
    before = {one.thread_id: one.updated_at for one in asyncio.run(_threads_of(settings, "u-1"))}

    assert json.loads(command("--user", "u-1", "--json").stdout)["added"] > 0

    after = {one.thread_id: one.updated_at for one in asyncio.run(_threads_of(settings, "u-1"))}
    assert after["t-delta"] == before["t-delta"]
    assert after["t-shop"] > before["t-shop"]  # never back to a time that a process has seen


async def _threads_of(settings: PersistenceSettings, user_id: str) -> tuple[ThreadRecord[str, str], ...]:
    async with Persistence(settings) as persistence:
        return (await persistence.threads.page(user_id=user_id)).items


@pytest.mark.parametrize(
    ("strict", "warns"), [(None, True), ("false", True), ("true", False), ("YES", False), ("1", False)]
)
def test_an_import_warns_of_values_that_name_classes(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, strict: str | None, warns: bool
) -> None:
    monkeypatch.delenv("LANGGRAPH_STRICT_MSGPACK", raising=False)
    if strict is not None:
        monkeypatch.setenv("LANGGRAPH_STRICT_MSGPACK", strict)

    result = command("--user", "u-1")  # the tables are not even there

    assert ("LANGGRAPH_STRICT_MSGPACK=true" in result.stderr) is warns


def test_what_comes_later_is_added(database: str, command: Callable[..., Any]) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=database)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    asyncio.run(migrate.upgrade(settings))
    with PostgresSaver.from_conn_string(database) as theirs:
        theirs.setup()
        graph = logger(2).compile(checkpointer=theirs)
        graph.invoke({"lines": ["first"], "rare": [], "count": 0}, config_of("t-1"))
        first = command("--user", "u-1")
        graph.invoke({"lines": ["second"]}, {**config_of("t-1"), "metadata": {"run_id": "r-2"}})
        latest = theirs.get_tuple(config_of("t-1"))
        theirs.put_writes(latest.config, [("rare", ["late"])], "00000000-0000-0000-0000-000000000001")  # type: ignore[union-attr]  # it is there
        theirs.put_writes(config_of("t-1", checkpoint_id="none"), [("rare", ["lost"])], "task")
        expected = theirs.get_tuple(config_of("t-1"))

    second = command("--user", "u-1", "--json")
    third = command("--user", "u-1", "--json")

    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 0, 0)
    assert json.loads(second.stdout)["added"] > 0
    assert json.loads(third.stdout)["added"] == 0
    with PersistenceSaver(Persistence(settings), user_id="u-1") as ours:
        found = ours.get_tuple(config_of("t-1"))
        ours.delete_for_runs(["r-2"])
        left = ours.get_tuple(config_of("t-1"))
    assert found is not None
    assert expected is not None
    assert left is not None
    assert left.checkpoint["id"] < found.checkpoint["id"]
    assert (found.checkpoint, found.pending_writes) == (expected.checkpoint, expected.pending_writes)


def test_a_thread_that_cannot_be_imported_is_named_and_the_others_go_on(
    database: str, command: Callable[..., Any]
) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=database)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    asyncio.run(migrate.upgrade(settings))

    async def somebody_elses() -> None:
        async with Persistence(settings) as persistence:
            await persistence.threads.create(thread_id="taken", user_id="somebody else")

    asyncio.run(somebody_elses())
    with PostgresSaver.from_conn_string(database) as theirs:
        theirs.setup()
        graph = logger(2).compile(checkpointer=theirs)
        for thread_id in ("taken", "free", "\x07", "broken"):
            graph.invoke({"lines": ["first"], "rare": [], "count": 0}, config_of(thread_id))
        theirs.conn.execute(
            "UPDATE checkpoints SET checkpoint = checkpoint - 'channel_versions' WHERE thread_id = 'broken'"
        )

    result = command("--user", "u-1", "--json")

    counted = json.loads(result.stdout)
    assert result.exit_code == 1
    assert counted["threads"] == 1
    assert sorted(one["thread_id"] for one in counted["refused"]) == ["\x07", "broken", "taken"]
    assert command("--user-key", "user_id").exit_code == 1
    assert command().exit_code == 2


SLOW_DIFFERENCES = {
    "parent": "UPDATE checkpoints SET parent_checkpoint_id = 'another' WHERE parent_checkpoint_id IS NOT NULL",
    "body": "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{ts}', '\"another\"')",
    "value": "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{channel_values,count}', '99')",
    "write": "UPDATE checkpoint_writes SET blob = '\\xa178' WHERE type = 'msgpack'",
}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("UPDATE checkpoints SET metadata = '{\"step\": 99}'", id="metadata"),
        *(pytest.param(change, id=name, marks=pytest.mark.slow) for name, change in SLOW_DIFFERENCES.items()),
    ],
)
def test_a_difference_is_counted_and_left_alone(database: str, command: Callable[..., Any], change: str) -> None:
    fill(database)
    asyncio.run(migrate.upgrade(PersistenceSettings(_env_file=None, database_url=database)))  # type: ignore[call-arg]  # pydantic-settings' own keyword
    command("--user", "u-1")

    async def execute() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(change)
        await connection.close()

    asyncio.run(execute())
    result = command("--user", "u-1", "--json")

    assert result.exit_code == 1
    assert json.loads(result.stdout)["differing"] > 0


def test_a_database_without_the_tables_says_so(command: Callable[..., Any], database: str) -> None:
    asyncio.run(migrate.upgrade(PersistenceSettings(_env_file=None, database_url=database)))  # type: ignore[call-arg]  # pydantic-settings' own keyword

    result = command("--user", "u-1")

    assert result.exit_code == 2
    assert "checkpoint_writes" in result.stderr


async def test_a_thread_that_is_deleted_meanwhile_is_named_and_the_others_go_on(
    make_database: Callable[[], Awaitable[str]], persistence: Persistence[str, str], user_id: str
) -> None:
    url = await make_database()
    await asyncio.to_thread(fill, url)
    async with open_tables(url) as tables:
        imports = import_threads(tables, persistence, owner_of=lambda _: user_id)
        first = await anext(imports)
        connection = await asyncpg.connect(url)
        await connection.execute("DELETE FROM checkpoints WHERE thread_id = 't-shop'")
        await connection.close()
        rest = [one async for one in imports]

    assert (first.thread_id, first.refusal) == ("t-delta", None)
    [gone] = rest
    assert (gone.thread_id, gone.checkpoints) == ("t-shop", 0)
    assert gone.refusal is not None
    assert "deleted" in gone.refusal


async def test_pending_sends_of_old_checkpoints_are_found_where_new_ones_look(
    make_database: Callable[[], Awaitable[str]], persistence: Persistence[str, str], user_id: str
) -> None:
    url = await make_database()
    send = {"old": "send"}

    def fill_old() -> None:
        with PostgresSaver.from_conn_string(url) as theirs:
            theirs.setup()
            old: Any = {
                "v": 3,
                "ts": "",
                "id": "1",
                "channel_values": {},
                "channel_versions": {"a": 1},
                "versions_seen": {},
            }
            stored = theirs.put(config_of("t-old"), old, {}, {"a": 1})
            theirs.put_writes(stored, [("__pregel_tasks", send)], "task")
            theirs.put(stored, {**old, "id": "2"}, {}, {})

    await asyncio.to_thread(fill_old)
    async with open_tables(url) as tables:
        imported = [one async for one in import_threads(tables, persistence, owner_of=lambda _: user_id)]

    found = await PersistenceSaver(persistence, user_id=user_id).aget_tuple(config_of("t-old"))
    assert [(one.checkpoints, one.differing, one.refusal) for one in imported] == [(2, 0, None)]
    assert found is not None
    assert found.checkpoint["channel_values"] == {"__pregel_tasks": [send]}
    await put(PersistenceSaver(persistence, user_id=user_id), found.config, {"a": 2}, versions={"a": 2})


_BODY = {"v": 4, "ts": "", "id": "1", "channel_values": {"a": 1}, "channel_versions": {"a": 1}, "versions_seen": {}}
_DEEP = "[" * 900 + "]" * 900
ODD_CHECKPOINTS: dict[str, tuple[str, str]] = {
    "null v": (json.dumps({**_BODY, "v": None}), "{}"),
    "text v": (json.dumps({**_BODY, "v": "4"}), "{}"),
    "list v": (json.dumps({**_BODY, "v": []}), "{}"),
    "null values": (json.dumps({**_BODY, "channel_values": None}), "{}"),
    "list values": (json.dumps({**_BODY, "channel_values": [1]}), "{}"),
    "null versions": (json.dumps({**_BODY, "channel_versions": None}), "{}"),
    "text versions": (json.dumps({**_BODY, "channel_versions": "1"}), "{}"),
    "mixed versions": (json.dumps({**_BODY, "v": 1, "channel_versions": {"a": 1, "b": "2", "c": None}}), "{}"),
    "odd versions": (json.dumps({**_BODY, "channel_versions": {"a": [1], "b": {}, "c": 1.5, "": True}}), "{}"),
    "null": ("null", "{}"),
    "number": ("7", "{}"),
    "empty": ("{}", "{}"),
    "null metadata": (json.dumps(_BODY), "null"),
    "list metadata": (json.dumps(_BODY), "[1]"),
    "number metadata": (json.dumps(_BODY), "7"),
    "odd owner": (json.dumps(_BODY), '{"user_id": {"a": [1]}}'),
    "null owner": (json.dumps(_BODY), '{"user_id": null}'),
    "odd run": (json.dumps(_BODY), '{"run_id": 7, "step": "x", "parents": 3}'),
    "endless number": (json.dumps({**_BODY, "n": "#"}).replace('"#"', "1e5000"), "{}"),
    "large number": (json.dumps({**_BODY, "n": 10**30}), '{"n": 1000000000000000000000000000000}'),
    "endless number in metadata": (json.dumps(_BODY), '{"n": 1e5000}'),
    "deep": (json.dumps({**_BODY, "n": "#"}).replace('"#"', _DEEP), "{}"),
    "deep metadata": (json.dumps(_BODY), '{"n": ' + _DEEP + "}"),
}


def _with_odd_rows(url: str) -> None:
    with PostgresSaver.from_conn_string(url) as theirs:
        theirs.setup()
        columns = "thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata"
        add = f"INSERT INTO checkpoints ({columns}) VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb)"
        for name, (body, metadata) in ODD_CHECKPOINTS.items():
            theirs.conn.execute(add, (name, "", "1", None, body, metadata))
            # A second checkpoint, so that the first one is read as a parent, too.
            theirs.conn.execute(add, (name, "", "2", "1", json.dumps({**_BODY, "v": 3, "id": "2"}), "{}"))
            theirs.conn.execute(
                "INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel, blob) "
                "VALUES (%s, '', '1', 'task', 0, '__pregel_tasks', %s)",
                (name, b"\xc0"),
            )
        body = json.dumps(_BODY)
        for thread_id, ns, checkpoint_id, parent in [
            ("", "", "1", None),
            ("own parent", "", "1", "1"),
            ("parent comes later", "", "1", "2"),
            ("parent comes later", "", "2", None),
            ("circle", "", "1", "2"),
            ("circle", "", "2", "1"),
            ("no parent", "", "1", "0"),
            ("empty id", "", "", None),
            ("odd namespace", "a|b:c\n", "1", None),
            ("zzz good", "", "1", None),
        ]:
            theirs.conn.execute(add, (thread_id, ns, checkpoint_id, parent, body, "{}"))


def test_every_row_that_the_tables_permit_is_imported_or_refused_by_its_key(
    database: str, command: Callable[..., Any]
) -> None:
    asyncio.run(migrate.upgrade(PersistenceSettings(_env_file=None, database_url=database)))  # type: ignore[call-arg]  # pydantic-settings' own keyword
    _with_odd_rows(database)
    names = {*ODD_CHECKPOINTS, "", "own parent", "parent comes later", "circle", "no parent", "empty id"}
    names |= {"odd namespace", "zzz good"}

    first, second = [command("--user", "u-1", "--user-key", "user_id", "--json") for _ in range(2)]

    assert (first.exit_code, second.exit_code) == (1, 1), first.output
    counted, again = json.loads(first.stdout), json.loads(second.stdout)
    refused = {one["thread_id"]: one["reason"] for one in counted["refused"]}
    assert counted["threads"] + len(refused) == len(names)
    assert refused.keys() <= names - {"zzz good", "null v", "null values", "odd namespace", "no parent"}
    assert refused.keys() >= {"", "text v", "null versions", "null", "endless number"}
    assert (again["added"], again["differing"], again["refused"]) == (0, counted["differing"], counted["refused"])
    assert counted["differing"] == 0
    assert not any(word in reason for reason in refused.values() for word in ("Traceback", "1e5000", "[[["))
