"""Saves that depend only on what the process knows: how few statements they take, and who else writes in between."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import pytest
from checkpoints import checkpoint_with, config_of, put, values_of
from langchain_core.messages import HumanMessage
from sqlalchemy import event, text

from agent_persistence import Persistence, ThreadNotFoundError
from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.pinned_connection import PinnedConnection
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.repositories.checkpoints.statements import save_graphs
from graphs import HELLO, talker


@pytest.fixture
def slow_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each save take longer than a step of a graph."""
    fetch = PinnedConnection.fetch

    async def wait(connection: PinnedConnection, statement: CompiledStatement, **values: Any) -> list[Any]:
        found = await fetch(connection, statement, **values)
        await asyncio.sleep(0.05 if "INSERT" in statement.text else 0)
        return found

    monkeypatch.setattr(PinnedConnection, "fetch", wait)


@contextmanager
def sent_by(persistence: Persistence[str, str]) -> Iterator[list[str]]:
    """Collect the statements that are sent in the block."""
    sent: list[str] = []

    def note(*call: Any) -> None:
        sent.append(call[2])

    event.listen(persistence.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(persistence.engine.sync_engine, "before_cursor_execute", note)


@pytest.mark.usefixtures("slow_saves")
@pytest.mark.parametrize("mirror", [None, "messages"])
async def test_a_run_takes_one_statement_to_read_and_one_a_checkpoint(
    persistence: Persistence[str, str], user_id: str, config: Any, mirror: str | None
) -> None:
    graph = talker(1).compile(checkpointer=PersistenceSaver(persistence, user_id=user_id, mirror=mirror))
    for _ in range(2):
        await graph.ainvoke(HELLO, config)

    with sent_by(persistence) as sent:
        await graph.ainvoke({"messages": [HumanMessage("x" * 100)]}, config)

    assert len(sent) == 4, sent


@pytest.mark.usefixtures("slow_saves")
async def test_a_run_whose_input_is_that_of_an_earlier_run_takes_as_few_statements(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    graph = talker(1).compile(checkpointer=saver)
    for _ in range(2):
        await graph.ainvoke({"messages": [HumanMessage("yes" * 30, id="1")]}, config)

    with sent_by(persistence) as sent:
        await graph.ainvoke({"messages": [HumanMessage("yes" * 30, id="1")]}, config)

    assert len(sent) == 4, sent


@pytest.mark.usefixtures("slow_saves")
async def test_writes_of_tasks_that_wait_for_one_another_are_saved_by_one_statement(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    stored = await put(saver, config, {"notes": ["a" * 80]})
    stored = await put(saver, stored, {"notes": ["a" * 80, "b" * 80]}, versions={"notes": 2})
    tasks = [f"task-{number}" for number in range(5)]

    with sent_by(persistence) as sent:
        await asyncio.gather(*(saver.aput_writes(stored, [("notes", [task * 20])], task) for task in tasks))

    found = await saver.aget_tuple(stored)
    assert found is not None
    assert found.pending_writes == [(task, "notes", [task * 20]) for task in tasks]
    assert len(sent) == 1, sent


@pytest.mark.usefixtures("slow_saves")
async def test_writes_that_wait_together_are_each_saved_in_their_own_namespace(
    saver: PersistenceSaver, config: Any
) -> None:
    thread_id = config["configurable"]["thread_id"]
    root = await put(saver, config, {"notes": ["a" * 80]})
    child = await put(saver, config_of(thread_id, checkpoint_ns="child:1"), {"notes": ["b" * 80]})

    await asyncio.gather(
        saver.aput_writes(root, [("notes", ["of the graph"])], "task-1"),
        saver.aput_writes(child, [("notes", ["of its subgraph"])], "task-2"),
    )

    found = [await saver.aget_tuple(one) for one in (root, child)]
    assert [one and one.pending_writes for one in found] == [
        [("task-1", "notes", ["of the graph"])],
        [("task-2", "notes", ["of its subgraph"])],
    ]


@pytest.mark.usefixtures("slow_saves")
async def test_writes_of_another_user_that_wait_with_the_owners_are_refused(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    stored = await put(saver, config, {"notes": ["a" * 80]})
    stranger = PersistenceSaver(persistence, user_id="a stranger")

    saved = await asyncio.gather(
        stranger.aput_writes(stored, [("notes", ["forged"])], "task-1"),
        saver.aput_writes(stored, [("notes", ["of the owner"])], "task-2"),
        return_exceptions=True,
    )

    assert [type(one) for one in saved] == [ThreadNotFoundError, type(None)]
    found = await saver.aget_tuple(stored)
    assert found is not None
    assert found.pending_writes == [("task-2", "notes", ["of the owner"])]


@pytest.mark.usefixtures("slow_saves")
async def test_writes_of_another_user_do_not_pass_with_those_of_the_owner_in_another_thread(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    stored = await put(saver, config, {"notes": ["a" * 80]})
    other = await put(saver, config_of(f"{config['configurable']['thread_id']}-2"), {"notes": ["b" * 80]})
    stranger = PersistenceSaver(persistence, user_id="a stranger")

    saved = await asyncio.gather(
        stranger.aput_writes(stored, [("notes", ["forged"])], "task-1"),
        saver.aput_writes(other, [("notes", ["of the owner"])], "task-2"),
        return_exceptions=True,
    )

    assert [type(one) for one in saved] == [ThreadNotFoundError, type(None)]
    found = await saver.aget_tuple(stored)
    assert found is not None
    assert found.pending_writes == []


@pytest.mark.usefixtures("slow_saves")
async def test_a_save_that_fails_or_goes_the_long_way_fails_no_other_that_waits_with_it(
    saver: PersistenceSaver, config: Any
) -> None:
    """The first checkpoint holds a value that cannot be serialised, the second one is a branch."""
    stored = await put(saver, config, {"notes": ["a" * 80]})
    bad = put(saver, stored, {"bad": lambda: None}, new={}, versions={"bad": 2})
    values = {"notes": ["b" * 80], "bad": lambda: None}
    late = put(saver, stored, values, new={"notes": 2}, versions={"notes": 2, "bad": 2})
    branch = put(saver, config, {"notes": ["c" * 80]}, versions={"notes": 2})
    writes = (saver.aput_writes(stored, [("notes", [task])], task) for task in ("task-1", "task-2"))

    saved = await asyncio.gather(next(writes), bad, late, branch, next(writes), return_exceptions=True)

    assert [type(one) for one in saved] == [type(None), TypeError, TypeError, dict, type(None)]
    found = await saver.aget_tuple(stored)
    assert found is not None
    assert found.pending_writes == [("task-1", "notes", ["task-1"]), ("task-2", "notes", ["task-2"])]
    assert await values_of(saver, saved[3]) == {"notes": ["c" * 80]}


async def test_a_read_returns_what_another_process_saved_since_this_one_did(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    notes = [letter * 80 for letter in "abcd"]
    stored = await put(saver, config, {"notes": notes[:2]})
    async with Persistence(persistence.settings) as other:
        await put(PersistenceSaver(other, user_id=user_id), stored, {"notes": notes}, versions={"notes": 2})

    assert await values_of(saver, config) == {"notes": notes}
    assert await values_of(saver, stored) == {"notes": notes[:2]}


@pytest.mark.parametrize("is_saved", [True, False])
async def test_a_read_of_a_thread_that_this_process_saved_or_read_last_returns_no_rows_of_values(
    persistence: Persistence[str, str],
    user_id: str,
    config: Any,
    is_saved: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes = [letter * 80 for letter in "abc"]
    async with Persistence(persistence.settings) as other:
        reader = PersistenceSaver(persistence, user_id=user_id)
        saver = reader if is_saved else PersistenceSaver(other, user_id=user_id)
        stored = await put(saver, config, {"notes": notes[:1]})
        await put(saver, stored, {"notes": notes, "whole": "d" * 80}, versions={"notes": 2, "whole": 1})
        if not is_saved:
            await reader.aget_tuple(config)
        counts: list[int] = []
        fetch = PinnedConnection.fetch

        async def count(connection: PinnedConnection, statement: CompiledStatement, **values: Any) -> list[Any]:
            found = await fetch(connection, statement, **values)
            counts.append(len(found))
            return found

        monkeypatch.setattr(PinnedConnection, "fetch", count)
        assert await values_of(reader, config) == {"notes": notes, "whole": "d" * 80}
        assert await reader.for_user(f"{user_id}-2").aget_tuple(config) is None

    assert counts == [1, 0]


@pytest.mark.parametrize("lost", ["a checkpoint", "writes"])
async def test_what_a_process_remembers_is_not_taken_for_rows_with_the_same_numbers_after_the_server_lost_some(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str, lost: str
) -> None:
    thread_id = config["configurable"]["thread_id"]
    first = await put(saver, config, {"notes": ["a" * 80]})
    if lost == "a checkpoint":
        await put(saver, first, {"notes": ["a" * 80, "b" * 80]}, versions={"notes": 2})
    else:
        await saver.aput_writes(first, [("notes", ["b" * 80])], "task")
    at_the_first = {"thread": thread_id, "first": first["configurable"]["checkpoint_id"]}
    async with Persistence(persistence.settings) as other, other.engine.begin() as connection:
        # As if it had been restored to the moment after the first save: numbers are given out again.
        for statement in (
            "SELECT setval(pg_get_serial_sequence('graph_values', 'value_no'), max(value_no) - 1) FROM graph_values"
            " WHERE thread_id = :thread",
            "DELETE FROM graph_values WHERE thread_id = :thread AND value_no > (SELECT min(value_no) FROM graph_values"
            " WHERE thread_id = :thread)",
            "DELETE FROM graph_checkpoints WHERE thread_id = :thread AND checkpoint_id <> :first",
        ):
            await connection.execute(text(statement), at_the_first)
        await connection.commit()
        elsewhere = PersistenceSaver(other, user_id=user_id)
        await put(elsewhere, first, {"notes": ["a" * 80, "c" * 80]}, versions={"notes": 2})

    assert await values_of(saver, config) == {"notes": ["a" * 80, "c" * 80]}


async def test_a_save_that_waited_for_another_process_is_not_made_of_what_was_known_before(
    persistence: Persistence[str, str],
    saver: PersistenceSaver,
    config: Any,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The statement sees the rows as they were when it began, so that only the locked thread can tell it."""
    thread_id = config["configurable"]["thread_id"]
    first = await put(saver, config, {"notes": ["a" * 80]})
    waiting = save_graphs(persistence.models, touch_seconds=3600.0, waits=True, one=True)
    results: list[Any] = []
    fetch = PinnedConnection.fetch

    async def wait(connection: PinnedConnection, statement: CompiledStatement, **values: Any) -> list[Any]:
        if "SKIP LOCKED" not in statement.text or "graph_values" not in statement.text:
            return await fetch(connection, statement, **values)
        results.append(await fetch(connection, waiting, **values))
        return list(results[-1])

    monkeypatch.setattr(PinnedConnection, "fetch", wait)
    async with (
        persistence.engine.connect() as connection,
        Persistence(persistence.settings) as other,
    ):
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
        transaction = driver.transaction()
        await transaction.start()
        await driver.execute("SELECT FROM threads WHERE thread_id = $1 FOR NO KEY UPDATE", thread_id)
        late = asyncio.create_task(put(saver, first, {"notes": ["a" * 80, "b" * 80]}, versions={"notes": 2}))
        while not await driver.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server's state
            await asyncio.sleep(0.01)
        await driver.execute(
            "UPDATE threads SET updated_at = clock_timestamp() WHERE thread_id = $1",  # as every other writer does
            thread_id,
        )
        await transaction.commit()
        await late

        assert results == [[]]
        assert await values_of(PersistenceSaver(other, user_id=user_id), config) == {"notes": ["a" * 80, "b" * 80]}


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 21])
async def test_a_save_whose_caller_was_cancelled_does_not_change_the_ones_after_it(
    saver: PersistenceSaver, config: Any, turns: int
) -> None:
    notes = ["a" * 80]
    stored = await put(saver, config, {"notes": notes})
    stored = await put(saver, stored, {"notes": notes}, new={}, versions={"notes": 1})

    cancelled = asyncio.create_task(saver.aput_writes(stored, [("notes", ["lost" * 20])], "task"))
    for _ in range(turns):
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    for number in range(2, 5):
        notes = [*notes, str(number) * 80]
        stored = await put(saver, stored, {"notes": notes}, versions={"notes": number})

    assert await values_of(saver, config) == {"notes": notes}


async def test_two_checkpointers_that_save_to_one_thread_at_once_lose_nothing(
    persistence: Persistence[str, str], user_id: str, config: Any
) -> None:
    savers = [PersistenceSaver(persistence, user_id=user_id) for _ in range(2)]
    root = await put(savers[0], config, {"notes": ["a" * 80]})
    stored = dict.fromkeys(savers, root)
    expected: dict[str, Any] = {}
    for number in range(6):
        made = {
            saver: checkpoint_with({"notes": ["a" * 80, f"{place}{number}" * 60]}, {"notes": number * 2 + place + 2})
            for place, saver in enumerate(savers)
        }
        found = await asyncio.gather(
            *(saver.aput(stored[saver], one, {}, one["channel_versions"]) for saver, one in made.items())
        )
        stored = dict(zip(savers, found, strict=True))
        expected |= {one["id"]: one["channel_values"] for one in made.values()}

    read = {one.checkpoint["id"]: one.checkpoint["channel_values"] async for one in savers[0].alist(config)}
    assert {key: read[key] for key in expected} == expected


@pytest.mark.usefixtures("slow_saves")
async def test_a_process_that_read_a_thread_saves_its_run_by_as_few_statements_as_the_one_that_saved_to_it(
    persistence: Persistence[str, str], user_id: str, config: Any
) -> None:
    async with Persistence(persistence.settings) as other:
        graphs = {
            process: talker(1).compile(checkpointer=PersistenceSaver(process, user_id=user_id))
            for process in (persistence, other)
        }
        counts: list[int] = []
        said = []
        for process in (other, persistence, other, persistence, persistence):
            said.append(HumanMessage("x" * len(said), id=str(len(said))))
            with sent_by(process) as sent:
                found = await graphs[process].ainvoke({"messages": said[-1:]}, config)
            counts.append(len(sent))

    # The first one creates the thread. The next one does not know yet which values the checkpoint refers to.
    assert counts[1:] == [5, 4, 4, 4]
    assert [one for one in found["messages"] if one.type == "human"] == said


@pytest.mark.usefixtures("slow_saves")
@pytest.mark.parametrize(("is_created", "most"), [(True, 4), (False, 9)])
async def test_the_first_run_in_a_thread_takes_few_statements_too(
    persistence: Persistence[str, str],
    saver: PersistenceSaver,
    config: Any,
    user_id: str,
    is_created: bool,
    most: int,
) -> None:
    if is_created:
        await persistence.threads.create(user_id=user_id, thread_id=config["configurable"]["thread_id"])
    graph = talker(1).compile(checkpointer=saver)

    with sent_by(persistence) as sent:
        await graph.ainvoke(HELLO, config)

    assert len(sent) <= most, sent


async def test_the_first_save_after_a_read_tells_the_process_that_saved_before(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    """That process saves without moving the thread, as long as nobody else does."""
    async with Persistence(persistence.settings) as other:
        first = await put(PersistenceSaver(other, user_id=user_id), config, {"notes": ["a" * 80]})
        before = await persistence.threads.get(config["configurable"]["thread_id"], user_id=user_id)
        await saver.aget_tuple(config)
        with sent_by(persistence) as sent:
            await put(saver, first, {"notes": ["a" * 80, "b" * 80]}, versions={"notes": 2})
        after = await persistence.threads.get(config["configurable"]["thread_id"], user_id=user_id)

    assert len(sent) == 1, sent
    assert before is not None
    assert after is not None
    assert before.updated_at < after.updated_at


async def test_a_list_does_not_take_in_rows_that_were_added_between_the_statement_and_its_lock(
    persistence: Persistence[str, str],
    saver: PersistenceSaver,
    config: Any,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the process that knows the thread, whose save changes nothing that the statement can see."""
    thread_id, notes = config["configurable"]["thread_id"], [letter * 80 for letter in "abc"]
    waiting = save_graphs(persistence.models, touch_seconds=3600.0, waits=True, one=True)
    fetch, waited = PinnedConnection.fetch, asyncio.Event()

    async def wait(connection: PinnedConnection, statement: CompiledStatement, **values: Any) -> list[Any]:
        if "SKIP LOCKED" not in statement.text or "graph_values" not in statement.text or waited.is_set():
            return await fetch(connection, statement, **values)
        waited.set()
        return list(await fetch(connection, waiting, **values))

    async with persistence.engine.connect() as connection, Persistence(persistence.settings) as other:
        first = await put(PersistenceSaver(other, user_id=user_id), config, {"notes": notes[:1]})
        await saver.aget_tuple(config)
        monkeypatch.setattr(PinnedConnection, "fetch", wait)
        driver: asyncpg.Connection = (await connection.get_raw_connection()).driver_connection  # type: ignore[assignment]
        async with driver.transaction():
            await driver.execute("SELECT FROM threads WHERE thread_id = $1 FOR NO KEY UPDATE", thread_id)
            late = asyncio.create_task(put(saver, first, {"notes": notes[:2]}, versions={"notes": 2}))
            while not await driver.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server's state
                await asyncio.sleep(0.01)
            await driver.execute(
                "INSERT INTO graph_values (thread_id, checkpoint_ns, checkpoint_id, channel, cells, content)"
                " SELECT thread_id, checkpoint_ns, checkpoint_id, channel, cells, content FROM graph_values"
                " WHERE thread_id = $1",
                thread_id,
            )
        second = await late
        await put(saver, second, {"notes": notes}, versions={"notes": 3})

        reader = PersistenceSaver(other, user_id=user_id)
        assert waited.is_set()
        assert await values_of(reader, second) == {"notes": notes[:2]}
        assert await values_of(reader, config) == {"notes": notes}
