"""Prune, delete by run, copy: what remains reads as before, also channels that are kept as their changes."""

from __future__ import annotations

import asyncio
import json
import struct
import zlib
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from checkpoints import checkpoint_with, config_of, put, values_of
from integration_sql import run_sql
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agent_persistence import Persistence, ThreadExistsError, ThreadNotFoundError
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.repositories.checkpoints import pruner, retention
from agent_persistence.repositories.checkpoints.compression import decompress
from agent_persistence.repositories.checkpoints.reader import CheckpointReader
from graphs import HELLO, letters, talker


def extend(state: list[str], writes: list[list[str]]) -> list[str]:
    return state + [item for write in writes for item in write]


class Count(TypedDict):
    n: int


class Log(TypedDict):
    lines: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=4)]
    rare: Annotated[list[str], DeltaChannel(extend)]
    count: int


def logger(steps: int) -> StateGraph[Any, Any, Any, Any]:
    """A graph with channels that LangGraph itself stores as their changes; two tasks write to one of them at once."""
    graph = StateGraph(Log)
    graph.add_node("a", lambda state: {"lines": [f"a{len(state['lines'])}" * 40], "count": len(state["lines"])})
    graph.add_node("b", lambda state: {"lines": [f"b{len(state['lines'])}"], "rare": ["r"]})
    graph.add_node("join", lambda _: {})
    graph.add_edge(START, "a")
    graph.add_edge(START, "b")
    graph.add_edge(["a", "b"], "join")
    graph.add_conditional_edges("join", lambda state: ["a", "b"] if len(state["lines"]) < steps else END)
    return graph


async def count_of(store: Persistence[Any, Any], table: str, thread_id: str) -> int:
    [[count]] = await run_sql(store, f"SELECT count(*) FROM {table} WHERE thread_id = :id", id=thread_id)
    return int(count)


@pytest.mark.parametrize("durability", ["sync", "exit"])
async def test_the_history_of_a_delta_channel_is_that_of_langgraphs_own_walk(
    saver: PersistenceSaver, config: Any, durability: Any
) -> None:
    graph = logger(9).compile(checkpointer=saver)
    await graph.ainvoke({"lines": ["first"], "rare": [], "count": 0}, config, durability=durability)
    await graph.ainvoke({"lines": ["second"]}, config, durability=durability)

    for state in [state async for state in saver.alist(config)]:
        expected = await BaseCheckpointSaver.aget_delta_channel_history(
            saver, config=state.config, channels=["lines", "rare", "count", "none"]
        )
        found = await saver.aget_delta_channel_history(config=state.config, channels=["lines", "rare", "count", "none"])
        assert found == expected


@pytest.mark.parametrize("durability", ["sync", "exit"])
@pytest.mark.parametrize("steps", [3, 5, 9])
async def test_a_pruned_graph_with_delta_channels_goes_on_as_before(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, durability: Any, steps: int
) -> None:
    graph = logger(steps).compile(checkpointer=saver)
    await graph.ainvoke({"lines": ["first"], "rare": [], "count": 0}, config, durability=durability)
    before = await graph.aget_state(config)
    thread_id = config["configurable"]["thread_id"]

    await saver.aprune([thread_id])
    await saver.aprune([thread_id])  # what it keeps is enough for itself

    after = await graph.aget_state(config)
    assert after.values == before.values
    assert await count_of(persistence, "graph_checkpoints", thread_id) == 1
    more = await graph.ainvoke({"lines": ["second"]}, config, durability=durability)
    assert more["lines"][: len(before.values["lines"]) + 1] == [*before.values["lines"], "second"]
    assert (await graph.aget_state(config)).values == more


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("runs_before", [0, 1])
async def test_a_thread_that_is_deleted_during_a_run_is_not_created_again(
    persistence: Persistence[str, str],
    saver: PersistenceSaver,
    config: Any,
    user_id: str,
    durability: Any,
    runs_before: int,
) -> None:
    is_running, may_end = asyncio.Event(), asyncio.Event()

    async def count(state: Count) -> dict[str, Any]:
        is_running.set()
        await may_end.wait()
        return {"n": state["n"] + 1}

    builder = StateGraph(Count)
    builder.add_node("count", count)
    builder.add_edge(START, "count")
    graph = builder.compile(checkpointer=saver)
    thread_id = config["configurable"]["thread_id"]
    may_end.set()
    for _ in range(runs_before):
        await graph.ainvoke({"n": 1}, config, durability=durability)
    may_end.clear()
    is_running.clear()
    run = asyncio.create_task(graph.ainvoke({"n": 1}, config, durability=durability))
    await is_running.wait()

    await saver.adelete_thread(thread_id)
    may_end.set()

    with pytest.raises(ThreadNotFoundError):
        await run
    assert await persistence.threads.get(thread_id, user_id=user_id) is None
    assert await graph.ainvoke({"n": 1}, config, durability=durability) == {"n": 2}


async def test_special_writes_that_are_replaced_leave_no_rows(saver: PersistenceSaver, config: Any) -> None:
    """LangGraph writes all answers to a node's interrupts anew with each of them."""
    stored = await put(saver, config, {"n": 1})
    for task in ("one", "two"):
        for count in (1, 40, 200):
            await saver.aput_writes(stored, [("__resume__", [f"answer {one}" for one in range(count)])], task)
            await saver.aput_writes(stored, [("__interrupt__", f"question {count}"), ("n", count)], task)

    found = await saver.aget_tuple(config)
    rows = await run_sql(
        saver._persistence,  # noqa: SLF001 - to count its rows
        "SELECT count(*) FROM graph_values WHERE thread_id = :thread_id",
        thread_id=config["configurable"]["thread_id"],
    )

    assert found is not None
    assert [(task, channel, value) for task, channel, value in found.pending_writes or () if channel != "n"] == [
        (task, channel, value)
        for task in ("one", "two")
        for channel, value in (
            ("__resume__", [f"answer {one}" for one in range(200)]),
            ("__interrupt__", "question 200"),
        )
    ]
    assert [value for _, channel, value in found.pending_writes or () if channel == "n"] == [1, 1]  # the first counts
    assert [tuple(row) for row in rows] == [(8,)]  # a task's answers, and the three rows that hold an "n" too


@pytest.mark.parametrize("by", ["a checkpoint with a parent", "a write"])
async def test_a_thread_that_was_never_created_is_told_how_to_create(
    persistence: Persistence[str, str], saver: PersistenceSaver, user_id: str, by: str
) -> None:
    thread_id = str(uuid7())
    config = config_of(thread_id, checkpoint_id="1ef4f797-8335-6428-8001-8a1503f9b875")

    async def save() -> None:
        if by == "a write":
            await saver.aput_writes(config, [("n", 1)], "task")
        else:
            await put(saver, config, {"n": 1})

    with pytest.raises(ThreadNotFoundError, match=r"threads\.create\(thread_id=") as refused:
        await save()
    await persistence.threads.create(thread_id=refused.value.thread_id, user_id=user_id)
    await save()


async def test_pruning_leaves_nothing_that_nobody_can_read(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    class Draft(TypedDict):
        text: str

    graph = StateGraph(Draft)
    graph.add_node("write", lambda state: {"text": letters(3000, seed=len(state["text"]))})
    graph.add_edge(START, "write")
    compiled = graph.compile(checkpointer=saver)
    for number in range(5):
        await compiled.ainvoke({"text": "x" * number}, config)
    thread_id = config["configurable"]["thread_id"]
    before = await compiled.aget_state(config)

    await saver.aprune([thread_id, "no such thread"])

    assert (await compiled.aget_state(config)).values == before.values
    assert await count_of(persistence, "graph_values", thread_id) == 1


def delta_of(content: bytes, bases: dict[int, bytes]) -> bytes:
    """A row as it was written before deltas rested on one row only."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS, zdict=b"".join(bases.values()))
    return struct.pack(f">BB{len(bases)}q", 2, len(bases), *bases) + deflate.compress(content) + deflate.flush()


async def test_a_delta_against_several_rows_reads_as_before_and_keeps_them(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    thread_id, said = config["configurable"]["thread_id"], [AIMessage(letters(2000, seed=seed)) for seed in range(3)]
    kept = [message.model_copy(update={"id": f"m-{index}"}) for index, message in enumerate(said)]
    first = await put(saver, config, {"messages": kept[:1]})
    await saver.aput_writes(first, [("messages", said[1:])], "task")  # the channel gives them their ids
    await put(saver, first, {"messages": kept}, versions={"messages": 2})
    rows = await run_sql(
        persistence, "SELECT value_no, content FROM graph_values WHERE thread_id = :id ORDER BY 1", id=thread_id
    )
    contents = {number: decompress(content) for number, content in rows}
    last, content = contents.popitem()
    delta = delta_of(content, contents)
    await run_sql(
        persistence,
        "UPDATE graph_values SET content = :delta WHERE thread_id = :id AND value_no = :last RETURNING 1",
        id=thread_id,
        last=last,
        delta=delta,
    )

    await saver.aprune([thread_id])

    assert len(delta) < len(content) / 10
    assert await values_of(saver, config) == {"messages": kept}
    assert await count_of(persistence, "graph_values", thread_id) == 3


async def test_what_repeats_the_input_of_a_run_outlives_it(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    graph = talker(0, size=9).compile(checkpointer=saver)
    thread_id, copy_id = config["configurable"]["thread_id"], str(uuid7())
    for run in range(3):
        with_run = {**config, "metadata": {"run_id": f"run-{run}"}}
        await graph.ainvoke({"messages": [HumanMessage(letters(2000, seed=run), id=f"q-{run}")]}, with_run)
    before = (await graph.aget_state(config)).values
    [[stored]] = await run_sql(
        persistence, "SELECT sum(length(content)) FROM graph_values WHERE thread_id = :id", id=thread_id
    )

    await saver.acopy_thread(thread_id, copy_id)
    await saver.adelete_for_runs(["run-1"])
    without_a_run = (await graph.aget_state(config)).values
    await saver.aprune([thread_id])

    assert stored < 3 * 2000
    assert without_a_run == before
    assert (await graph.aget_state(config)).values == before
    assert (await graph.aget_state(config_of(copy_id))).values == before


async def test_an_input_that_comes_after_what_repeats_it_needs_no_other_row(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    text, thread_id = letters(2000, seed=1), config["configurable"]["thread_id"]
    first = await put(saver, config, {"n": 1})
    given = checkpoint_with({"__start__": {"text": text}})
    await saver.aput_writes(
        config_of(thread_id, checkpoint_id=given["id"]), [("text", text)], "task", "~__pregel_pull, __start__"
    )
    stored = await saver.aput(first, given, {}, given["channel_versions"])
    last = await put(saver, stored, {"text": text + "!"})

    assert await values_of(saver, stored) == {"__start__": {"text": text}}
    await saver.aprune([thread_id])

    assert await values_of(saver, last) == {"text": text + "!"}
    assert await count_of(persistence, "graph_values", thread_id) == 1


async def test_what_repeats_an_input_is_kept_with_it_while_a_task_waits(saver: PersistenceSaver, config: Any) -> None:
    text = letters(2000, seed=1)
    given = {"__start__": {"text": text}}
    older = await put(saver, config, {"n": 1}, metadata={"run_id": "r-1"})
    stored = await put(saver, older, given)
    await saver.aput_writes(stored, [("text", text)], "task", "~__pregel_pull, __start__")
    again = checkpoint_with({"n": 2}) | {"id": stored["configurable"]["checkpoint_id"]}
    await saver.aput(older, again, {}, {"n": 2})  # the same checkpoint, which has no input any more

    await saver.adelete_for_runs(["r-1"])

    found = await saver.aget_tuple(stored)
    assert found is not None
    assert found.pending_writes == [("task", "text", text)]


async def test_a_subgraphs_calls_go_with_the_checkpoints_that_made_them(saver: PersistenceSaver, config: Any) -> None:
    thread_id = config["configurable"]["thread_id"]
    root = await put(saver, config, {"n": 1})
    roots = root["configurable"]["checkpoint_id"]
    await put(
        saver,
        config_of(thread_id) | {"configurable": {"thread_id": thread_id, "checkpoint_ns": "sub:1"}},
        {"n": 2},
        metadata={"parents": {"": roots}},
    )
    last = await put(saver, root, {"n": 3})
    await put(
        saver,
        {"configurable": {"thread_id": thread_id, "checkpoint_ns": "sub:2"}},
        {"n": 4},
        metadata={"parents": {"": last["configurable"]["checkpoint_id"]}},
    )

    await saver.aprune([thread_id])

    left = [
        one.config["configurable"]["checkpoint_ns"]
        async for one in saver.alist({"configurable": {"thread_id": thread_id}})
    ]
    assert sorted(left) == ["", "sub:2"]


async def test_pruning_copes_with_more_calls_than_a_statement_has_parameters(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    thread_id = config["configurable"]["thread_id"]
    root = await put(saver, config, {"n": 1})
    called_by = {"parents": {"": root["configurable"]["checkpoint_id"]}}
    await put(saver, {"configurable": {"thread_id": thread_id, "checkpoint_ns": "sub:0"}}, {"n": 2})
    await run_sql(
        persistence,
        """
        INSERT INTO graph_checkpoints (thread_id, checkpoint_ns, checkpoint_id, metadata, body, refs)
        SELECT thread_id, 'sub:' || call, checkpoint_id, CAST(:metadata AS jsonb), body, refs
        FROM graph_checkpoints, generate_series(1, 17000) AS call
        WHERE thread_id = :id AND checkpoint_ns = 'sub:0' RETURNING 1
        """,
        id=thread_id,
        metadata=json.dumps(called_by),
    )
    await put(saver, root, {"n": 3})

    await saver.aprune([thread_id])

    assert await count_of(persistence, "graph_checkpoints", thread_id) == 2
    assert await values_of(saver, config) == {"n": 3}


async def test_what_is_written_at_a_checkpoint_on_its_way_survives_pruning(
    saver: PersistenceSaver, config: Any
) -> None:
    thread_id = config["configurable"]["thread_id"]
    stored = await put(saver, config, {"n": 1})
    coming = config_of(thread_id, checkpoint_id="ffff")
    await saver.aput_writes(coming, [("n", "x" * 99)], "task")

    await saver.aprune([thread_id])
    await saver.aput_writes(stored, [("n", 2)], "task")

    record = await saver.aget_tuple(config)
    assert record is not None
    assert record.pending_writes == [("task", "n", 2)]
    late = {**checkpoint_with({"n": 3}), "id": "ffff"}
    await saver.aput(stored, late, {}, {"n": 2})  # type: ignore[arg-type]  # a dict of a TypedDict
    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.pending_writes == [("task", "n", "x" * 99)]


async def test_runs_are_deleted_and_the_others_read_as_before(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any
) -> None:
    graph = talker(2).compile(checkpointer=saver)
    for run, message in enumerate(["one", "two", "three"]):
        with_run = {**config, "metadata": {"run_id": f"run-{run}"}}
        await graph.ainvoke({"messages": [HumanMessage(letters(900, seed=run), id=message)]}, with_run)
    before = {one.config["configurable"]["checkpoint_id"]: one async for one in saver.alist(config)}
    thread_id = config["configurable"]["thread_id"]

    await saver.adelete_for_runs(["run-0", "run-1"])

    after = {one.config["configurable"]["checkpoint_id"]: one async for one in saver.alist(config)}
    assert {one.metadata["run_id"] for one in after.values()} == {"run-2"}
    assert all(one.checkpoint == before[key].checkpoint for key, one in after.items())
    await saver.adelete_for_runs(["run-2"])
    assert await count_of(persistence, "graph_values", thread_id) == 0


async def test_a_delta_channel_outlives_the_runs_before(saver: PersistenceSaver, config: Any) -> None:
    graph = logger(3).compile(checkpointer=saver)
    await graph.ainvoke({"lines": ["first"], "rare": [], "count": 0}, {**config, "metadata": {"run_id": "run-0"}})
    await graph.ainvoke({"lines": ["second"]}, {**config, "metadata": {"run_id": "run-1"}})
    before = await graph.aget_state(config)

    await saver.adelete_for_runs(["run-0"])

    assert (await graph.aget_state(config)).values == before.values


async def test_a_copy_lives_its_own_life(saver: PersistenceSaver, config: Any) -> None:
    graph = talker(3).compile(checkpointer=saver)
    await graph.ainvoke(HELLO, config)
    source, target = config["configurable"]["thread_id"], str(uuid7())
    await saver.acopy_thread(source, target)
    copied = [one.checkpoint async for one in saver.alist(config_of(target))]
    assert copied == [one.checkpoint async for one in saver.alist(config)]

    await graph.ainvoke({"messages": [AIMessage("more", id="more")]}, config_of(target))
    await saver.adelete_thread(source)

    messages = (await graph.aget_state(config_of(target))).values["messages"]
    assert "more" in [message.content for message in messages]
    assert await values_of(saver, config) is None
    with pytest.raises(ThreadNotFoundError):
        await saver.acopy_thread(source, str(uuid7()))
    with pytest.raises(ThreadExistsError):
        await saver.acopy_thread(target, target)


async def test_a_checkpoint_that_is_deleted_while_it_is_read_is_not_seen_in_part(
    persistence: Persistence[str, str],
    saver: PersistenceSaver,
    config: Any,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = [letters(200, seed=seed) for seed in range(6)]
    stored = config
    for number in range(1, 5):  # one row a message
        stored = await put(saver, stored, {"messages": messages[:number]}, versions={"messages": number})
    fill = CheckpointReader._load_ranges  # noqa: SLF001 - between both statements of a read

    async def fill_late(*arguments: Any) -> None:
        """Delete the referred rows after the references were read."""
        monkeypatch.setattr(CheckpointReader, "_load_ranges", fill)
        await put(saver, stored, {"messages": messages[2:]}, versions={"messages": 5})
        await saver.aprune([config["configurable"]["thread_id"]])
        await fill(*arguments)

    monkeypatch.setattr(CheckpointReader, "_load_ranges", fill_late)

    async with Persistence(persistence.settings) as other:  # which did not save it, and so reads by two statements
        assert await values_of(PersistenceSaver(other, user_id=user_id), config) == {"messages": messages[2:]}


async def test_a_purge_keeps_the_newest_checkpoints_and_the_calls_that_they_made(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    thread_id = config["configurable"]["thread_id"]
    stored, roots, calls = config, [], []
    for number in range(5):
        stored = await put(saver, stored, {"notes": [f"{number}" * 80]}, versions={"notes": number + 1})
        roots.append(stored["configurable"]["checkpoint_id"])
        calls.append(config_of(thread_id, checkpoint_ns=f"child:{number}"))
        await put(saver, calls[-1], {"n": number}, metadata={"parents": {"": roots[-1]}})
    await saver.aput_writes(stored, [("notes", ["pending"])], "task")

    counted = await persistence.purge(keep_last=2, user_id=user_id, dry_run=True)
    of_others = await persistence.purge(keep_last=2, user_id="another")
    deleted = await persistence.purge(keep_last=2, user_id=user_id)

    assert (counted, of_others, deleted) == (6, 0, 6)
    left = [one.checkpoint["id"] async for one in saver.alist(config)]
    assert left == [roots[4], roots[3]]
    assert [await values_of(saver, call) for call in calls] == [None, None, None, {"n": 3}, {"n": 4}]
    found = await saver.aget_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == {"notes": ["4" * 80]}
    assert found.pending_writes == [("task", "notes", ["pending"])]
    assert await count_of(persistence, "graph_values", thread_id) == 3


async def put_several(saver: PersistenceSaver, config: Any, count: int) -> list[str]:
    """Put checkpoints one after the other; return their ids."""
    ids = []
    for number in range(count):
        config = await put(saver, config, {"n": number}, versions={"n": number + 1})
        ids.append(config["configurable"]["checkpoint_id"])
    return ids


async def test_a_purge_by_age_keeps_young_checkpoints_and_locks_no_thread_that_has_only_these(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    young, row = config_of(f"{user_id}-young"), "SELECT xmax::text, ctid::text FROM threads WHERE thread_id = :id"
    ids = await put_several(saver, config, 4)
    await put_several(saver, young, 2)
    aged = "UPDATE graph_checkpoints SET created_at = now() - interval '40 days' WHERE checkpoint_id = ANY(:ids)"
    await run_sql(persistence, f"{aged} RETURNING 1", ids=ids[:2])
    before = await run_sql(persistence, row, id=f"{user_id}-young")

    deleted = await persistence.purge(older_than=datetime.now(UTC) - timedelta(days=30), user_id=user_id)

    assert deleted == 2
    assert [one.checkpoint["id"] async for one in saver.alist(config)] == ids[:1:-1]
    assert await run_sql(persistence, row, id=f"{user_id}-young") == before


async def test_a_purge_of_more_checkpoints_than_a_batch_deletes_all(
    persistence: Persistence[str, str],
    saver: PersistenceSaver,
    config: Any,
    user_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (pruner, retention):
        monkeypatch.setattr(module, "CHECKPOINTS_A_BATCH", 2)
    ids = await put_several(saver, config, 6)

    assert await persistence.purge(keep_last=1, user_id=user_id) == 5
    assert [one.checkpoint["id"] async for one in saver.alist(config)] == ids[-1:]


async def test_a_purge_passes_over_checkpoints_of_a_thread_that_a_writer_holds(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, user_id: str
) -> None:
    await put_several(saver, config, 3)
    async with persistence.begin(user_id=user_id) as uow, asyncio.timeout(2):
        await uow.states.touch(config["configurable"]["thread_id"])  # locks it
        skipped = await persistence.purge(keep_last=1, user_id=user_id)

    assert skipped == 0
    assert await persistence.purge(keep_last=1, user_id=user_id) == 2
