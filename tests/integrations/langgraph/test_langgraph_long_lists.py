"""Long lists of short values: what they cost, and that they read as they were."""

from __future__ import annotations

import asyncio
import operator
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from checkpoints import put, values_of
from integration_sql import run_sql
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agent_persistence import Persistence
from agent_persistence.integrations.langgraph import PersistenceSaver, long_lists
from agent_persistence.integrations.langgraph.long_lists import LongList
from agent_persistence.integrations.langgraph.seen_messages import SeenMessages
from agent_persistence.integrations.langgraph.values import dump, load
from agent_persistence.repositories.checkpoints.records import all_items
from graphs import letters

SERDE = JsonPlusSerializer()
LONG = 3000


class Notes(TypedDict):
    notes: Annotated[list[Any], operator.add]
    more: int


def note_taker() -> StateGraph[Any, Any, Any, Any]:
    """A graph that adds as many notes as it is told to."""

    async def add(state: Any) -> dict[str, Any]:
        return {"notes": [f"note {len(state['notes']) + number}" for number in range(state["more"])]}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Notes)
    graph.add_node("add", add)
    graph.add_edge(START, "add")
    return graph


MAKERS: dict[str, Callable[[int], Any]] = {
    "texts": lambda number: f"text {number}",
    "questions": lambda number: f"what is {number}?",
    "equal": lambda _number: "x",
    "long": lambda number: letters(1000, seed=number % 7),
    "of all sizes": lambda number: "x" * (number % 700),
    "bytes": lambda number: b"%d" % number,
    "scalars": lambda number: [None, number, number / 2, True, f"{number}"][number % 5],
    "surrogates": lambda number: f"\ud800 {number}" if number % 500 == 0 else f"{number}",
    "dicts": lambda number: {"id": number, "tags": ["a", {"b": None}], 7: b"x"},
    "dicts with a surrogate": lambda number: {"text": "\udfff" if number == 900 else f"{number}"},
    "messages": lambda number: HumanMessage(f"message {number}", id=f"m-{number}"),
    "texts and messages": lambda number: HumanMessage("x", id="m") if number == 2000 else f"text {number}",
    "tuples": lambda number: [(number,)],
}


@pytest.mark.parametrize("kind", MAKERS)
async def test_a_long_list_reads_as_it_was(saver: PersistenceSaver, config: Any, kind: str) -> None:
    items = [MAKERS[kind](number) for number in range(LONG)]
    first = await put(saver, config, {"notes": items})
    second = await put(saver, first, {"notes": [*items, *items[:3]]})
    await saver.aput_writes(second, [("notes", items)], "t-1")
    found = await saver.aget_tuple(second)

    expected = SERDE.loads_typed(SERDE.dumps_typed(items)) if kind == "tuples" else items
    assert await values_of(saver, first) == {"notes": expected}
    assert found is not None
    assert found.checkpoint["channel_values"] == {"notes": [*expected, *expected[:3]]}
    assert found.pending_writes == [("t-1", "notes", expected)]


EDITS: dict[str, Callable[[list[Any]], list[Any]]] = {
    "appended": lambda items: [*items, "new"],
    "cut at the front": lambda items: items[7:],
    "cut at the end": lambda items: items[:-7],
    "inserted": lambda items: [*items[:1500], "new", *items[1500:]],
    "changed": lambda items: [*items[:1500], "new", *items[1501:]],
    "put before": lambda items: ["new", *items],
}


@pytest.mark.parametrize("edit", EDITS)
async def test_an_edit_of_a_long_list_stores_little(
    persistence: Persistence[str, str], saver: PersistenceSaver, config: Any, edit: str
) -> None:
    items = [letters(30, seed=number) for number in range(2 * LONG)]
    size = "SELECT sum(octet_length(content)) FROM graph_values WHERE thread_id = :thread_id"
    ids = {"thread_id": config["configurable"]["thread_id"]}
    config = await put(saver, config, {"notes": items})
    [[before]] = await run_sql(persistence, size, **ids)
    config = await put(saver, config, {"notes": EDITS[edit](items)})
    [[after]] = await run_sql(persistence, size, **ids)

    assert await values_of(saver, config) == {"notes": EDITS[edit](items)}
    assert before > 100_000
    assert after - before < 50_000


async def test_a_long_list_that_was_stored_item_by_item_reads_and_grows(
    saver: PersistenceSaver, config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions of before stored all lists."""
    items = [f"text {number}" for number in range(LONG)]
    with monkeypatch.context() as before:
        before.setattr(long_lists, "_LONG", 10 * LONG)
        first = await put(saver, config, {"notes": items})
    second = await put(saver, first, {"notes": [*items, "new"]})

    assert await values_of(saver, first) == {"notes": items}
    assert await values_of(saver, second) == {"notes": [*items, "new"]}


@pytest.mark.parametrize("kind", ["texts", "dicts"])
async def test_a_list_that_changes_while_it_is_saved_is_saved_as_it_was(kind: str) -> None:
    items = [MAKERS[kind](number) for number in range(LONG)]
    value = dump(SERDE, items, SeenMessages())
    assert isinstance(value, LongList)
    items[0] = "changed"
    if kind == "dicts":
        items[5]["id"] = "changed"
    await value.settle()

    assert load(SERDE, all_items(value)) == [MAKERS[kind](number) for number in range(LONG)]
    assert len(all_items(value)) < LONG / 5


def test_the_snapshot_of_a_delta_channel_can_be_long() -> None:
    snapshot = _DeltaSnapshot([f"text {number}" for number in range(LONG)])
    value = dump(SERDE, snapshot, SeenMessages())

    assert isinstance(value, LongList)
    assert len(value.fingerprints) < LONG / 5
    assert load(SERDE, all_items(value)) == snapshot


async def test_a_long_conversation_of_dicts_is_mirrored_once(
    persistence: Persistence[str, str], user_id: str, config: Any
) -> None:
    saver = PersistenceSaver(persistence, user_id=user_id, mirror="notes")
    graph = note_taker().compile(checkpointer=saver)
    said = [{"role": "user", "content": f"message {number}"} for number in range(1100)]
    for notes in (said[:1000], said[1000:]):
        await graph.ainvoke({"notes": notes, "more": 0}, config)

    count = "SELECT count(*) FROM messages WHERE thread_id = :thread_id"
    [[mirrored]] = await run_sql(persistence, count, thread_id=config["configurable"]["thread_id"])
    assert mirrored == 1100


class Ticks:
    """How long the event loop was kept from its other tasks, in seconds of processor time.

    Processor time, because a machine that pauses for a second tells nothing about this package.
    """

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        while True:
            began = time.process_time()
            await asyncio.sleep(0.01)
            self.longest = max(self.longest, time.process_time() - began)


@asynccontextmanager
async def ticking() -> Any:
    ticks = Ticks()
    task = asyncio.create_task(ticks.run())
    await asyncio.sleep(0)
    yield ticks
    await asyncio.sleep(0.02)
    task.cancel()


def test_items_that_are_read_in_one_call_come_back_equal_even_if_they_are_nested_as_deeply_as_can_be() -> None:
    deepest: list[Any] = []
    for _ in range(254):
        deepest = [deepest]
    with pytest.raises(TypeError, match="Recursion"):
        SERDE.dumps_typed([deepest])
    items = [HumanMessage(letters(80, seed=seed), id=str(seed)) for seed in range(300)]
    mixed = [deepest, *items, None, b"bytes", 1.5, "text", {"a": [1, 2]}, *items]

    assert load(SERDE, [SERDE.dumps_typed(item) for item in items]) == items
    assert load(SERDE, [SERDE.dumps_typed(item) for item in mixed]) == mixed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["texts", "questions", "equal"])
async def test_a_list_of_100_000_short_items_does_not_stall_the_loop(
    saver: PersistenceSaver, config: Any, kind: str
) -> None:
    graph = note_taker().compile(checkpointer=saver)
    await graph.ainvoke({"notes": ["warm"], "more": 1}, {"configurable": {"thread_id": f"warm-{kind}-{id(saver)}"}})
    items = [MAKERS[kind](number) for number in range(100_000)]
    async with ticking() as ticks:
        for notes in (items, []):
            began = time.perf_counter()
            await graph.ainvoke({"notes": notes, "more": 50}, config)
            assert time.perf_counter() - began < 6
    state = await graph.aget_state(config)

    assert state.values["notes"][: len(items)] == items
    assert len(state.values["notes"]) == 100_100
    assert ticks.longest < 0.25  # item by item 0.6 to 2.5; now 0.02 on an idle machine


@pytest.mark.slow
async def test_400_000_short_texts_are_saved(saver: PersistenceSaver, config: Any) -> None:
    graph = note_taker().compile(checkpointer=saver)
    items = [f"item number {number}" for number in range(400_000)]
    await graph.ainvoke({"notes": items, "more": 50}, config)
    await graph.ainvoke({"notes": [], "more": 50}, config)

    assert len((await graph.aget_state(config)).values["notes"]) == 400_100
