"""What a graph's checkpoints take on disk."""

from __future__ import annotations

import itertools
import operator
import tracemalloc
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

import asyncpg
import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.graph import END, START, StateGraph
from typing_extensions import TypedDict

from agent_persistence import Persistence, PersistenceSettings, migrate
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.repositories.checkpoints.value_rows import NewValue, new_value_rows, stored_values
from graphs import HELLO, Conversation, ConversationOfChanges, letters, talker

STEPS = 500
SIZE = "SELECT pg_total_relation_size('graph_checkpoints') + pg_total_relation_size('graph_values')"
Durability = Literal["sync", "async", "exit"]


async def one_run(checkpointer: PersistenceSaver, config: Any, durability: Durability, schema: type[Any]) -> Any:
    graph = talker(STEPS, schema=schema).compile(checkpointer=checkpointer)
    return (await graph.ainvoke(HELLO, {**config, "recursion_limit": STEPS + 9}, durability=durability))["messages"]


async def questions_and_answers(
    checkpointer: PersistenceSaver, config: Any, durability: Durability, schema: type[Any]
) -> Any:
    graph = talker(0, schema=schema).compile(checkpointer=checkpointer)
    for turn in range(STEPS // 2):
        question: Any = {"messages": [HumanMessage(letters(1024, seed=-1 - turn))]}
        await graph.ainvoke(question, config, durability=durability)
    return (await graph.aget_state(config)).values["messages"]


class Notes(TypedDict):
    notes: Annotated[list[str], operator.add]


async def short_texts(checkpointer: PersistenceSaver, config: Any) -> Any:
    def add(state: Any) -> dict[str, Any]:
        return {"notes": [letters(40, seed=len(state["notes"]) + number) for number in range(25)]}

    graph: StateGraph[Any, Any, Any, Any] = StateGraph(Notes)
    graph.add_node("add", add)
    graph.add_edge(START, "add")
    graph.add_conditional_edges("add", lambda state: "add" if len(state["notes"]) < 25 * STEPS else END)
    compiled = graph.compile(checkpointer=checkpointer)
    return (await compiled.ainvoke({"notes": []}, {**config, "recursion_limit": STEPS + 9}))["notes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("conversation", "durability", "schema", "most"),
    [
        *itertools.product([one_run, questions_and_answers], ["sync", "async", "exit"], [Conversation], [2.0]),
        *itertools.product([one_run], ["sync", "exit"], [ConversationOfChanges], [2.0]),
        # LangGraph counts in the metadata of each checkpoint how long ago it has stored the channel as a whole.
        (questions_and_answers, "async", ConversationOfChanges, 2.1),
    ],
)
async def test_500_messages_of_a_kilobyte_take_about_twice_what_they_are_at_most(
    make_database: Callable[[], Awaitable[str]],
    conversation: Any,
    durability: Durability,
    schema: type[Any],
    most: float,
) -> None:
    payload, stored = await sizes(make_database, lambda saver, config: conversation(saver, config, durability, schema))

    assert payload > STEPS * 1024
    assert stored < most * payload, stored / payload


@pytest.mark.slow
async def test_500_steps_that_add_25_short_texts_each_take_space_in_proportion(
    make_database: Callable[[], Awaitable[str]],
) -> None:
    """Stored once as a step added them, and once more in pieces."""
    payload, stored = await sizes(make_database, short_texts)

    assert payload > STEPS * 1024
    assert stored < 3.5 * payload, stored / payload


async def sizes(
    make_database: Callable[[], Awaitable[str]], fill: Callable[[PersistenceSaver, Any], Awaitable[Any]]
) -> tuple[int, int]:
    """Fill a database; return the size of the serialised items, and what the tables take."""
    url = await make_database()
    settings = PersistenceSettings(_env_file=None, database_url=url)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    await migrate.upgrade(settings)
    async with Persistence(settings) as persistence:
        saver = PersistenceSaver(persistence, user_id="u-1")
        items = await fill(saver, {"configurable": {"thread_id": "0198f0a5-7c5e-7d2a-9b1e-2f6a4d3c1b00"}})
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute("VACUUM")
    stored = await connection.fetchval(SIZE)
    await connection.close()
    return sum(len(JsonPlusSerializer().dumps_typed(item)[1]) for item in items), stored


@pytest.mark.slow
def test_what_is_remembered_of_large_rows_is_bounded() -> None:
    items = [("msgpack", f"document {number}".encode()) for number in range(2000)]
    [row, *_] = new_value_rows([NewValue("documents", None, is_list=True, items=items)])
    tracemalloc.start()
    try:
        for number in range(80):
            stored_values(number, row.cells)
        # Of the modules that make the rows: other tests' threads may allocate, too.
        made = [tracemalloc.Filter(True, pattern) for pattern in ("*/value_rows.py", "*/json/decoder.py")]
        found = tracemalloc.take_snapshot().filter_traces(made)
    finally:
        tracemalloc.stop()

    assert 10_000_000 < sum(one.size for one in found.statistics("filename")) < 25_000_000
