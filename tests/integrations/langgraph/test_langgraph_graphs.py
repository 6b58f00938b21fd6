"""Real graphs on the checkpointer, beside LangGraph's own one in memory."""

from __future__ import annotations

import copy
import operator
import pickle
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from agent_persistence import InvalidInputError
from agent_persistence.integrations.langgraph import PersistenceSaver
from graphs import HELLO, talker

Durability = Literal["sync", "async", "exit"]
DURABILITIES: list[Durability] = ["sync", "async", "exit"]


class Order(TypedDict, total=False):
    messages: Annotated[list[Any], add_messages]
    notes: Annotated[list[str], operator.add]
    approved: bool
    total: int


def shop() -> StateGraph[Any, Any, Any, Any]:
    """A graph with everything: parallel tasks, sends, a subgraph, an interrupt, messages that are taken away."""

    class Packing(TypedDict):
        notes: Annotated[list[str], operator.add]

    packing = StateGraph(Packing)
    packing.add_node("wrap", lambda state: {"notes": [f"wrapped {len(state['notes'])}"]})
    packing.add_node("label", lambda _: {"notes": [f"label: {interrupt('address?')}"]})
    packing.add_edge(START, "wrap")
    packing.add_edge("wrap", "label")

    def approve(state: Order) -> dict[str, Any]:
        return {"approved": interrupt({"total": state["total"]})}

    graph = StateGraph(Order)
    graph.add_node("take", lambda state: {"messages": [AIMessage("taken", id="a-1")], "total": len(state["messages"])})
    graph.add_node("price", lambda _: {"notes": ["priced"], "messages": [AIMessage("7 EUR", id="a-2")]})
    graph.add_node("stock", lambda _: {"notes": ["in stock"], "messages": [AIMessage("yes", id="a-3")]})
    graph.add_node("check", lambda state: {"notes": [f"checked {state}"]})
    graph.add_node("approve", approve)
    graph.add_node("pack", packing.compile())
    graph.add_node("tidy", lambda _: {"messages": [RemoveMessage("a-2"), AIMessage("sent", id="a-4")]})
    graph.add_edge(START, "take")
    graph.add_edge("take", "price")
    graph.add_edge("take", "stock")
    graph.add_conditional_edges("stock", lambda _: [Send("check", 1), Send("check", 2)])
    graph.add_edge("check", "approve")
    graph.add_edge("approve", "pack")
    graph.add_edge("pack", "tidy")
    graph.add_edge("tidy", END)
    return graph


async def shopping(checkpointer: Any, config: Any, durability: Durability) -> list[Any]:
    """Run it to its end, through both interrupts, and return all that can be seen of it."""
    graph = shop().compile(checkpointer=checkpointer)
    seen: list[Any] = [
        await graph.ainvoke({"messages": [HumanMessage("a bike", id="h-1")]}, config, durability=durability)
    ]
    seen.append(await graph.ainvoke(Command(resume=True), config, durability=durability))
    seen.append((await graph.aget_state(config, subgraphs=True)).tasks[0].state.values)
    seen.append(await graph.ainvoke(Command(resume="Rome"), config, durability=durability))
    seen += [await described(graph, config)]
    return [without_ids(one) for one in seen]


async def described(graph: Any, config: Any) -> list[Any]:
    history = [state async for state in graph.aget_state_history(config)]
    return [
        (
            state.values,
            state.next,
            state.metadata["source"],
            state.metadata["step"],
            [task.result for task in state.tasks],
        )
        for state in history
    ]


def without_ids(seen: Any) -> Any:
    """What differs from run to run: the ids of interrupts."""
    if isinstance(seen, dict) and "__interrupt__" in seen:
        return {**seen, "__interrupt__": [one.value for one in seen["__interrupt__"]]}
    return seen


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_graph_is_seen_as_it_is_in_memory(saver: PersistenceSaver, config: Any, durability: Durability) -> None:
    expected = await shopping(InMemorySaver(), config, durability)

    seen = await shopping(saver, config, durability)

    assert seen == expected


async def test_an_earlier_state_can_be_gone_back_to_and_branched_from(saver: PersistenceSaver, config: Any) -> None:
    graph = talker(3).compile(checkpointer=saver)
    await graph.ainvoke(HELLO, config, durability="sync")
    before = [state async for state in graph.aget_state_history(config)]
    second = next(state for state in before if len(state.values["messages"]) == 2)

    fork = await graph.aupdate_state(second.config, {"messages": [HumanMessage("no!", id="no")]})
    forked = await graph.ainvoke(None, fork)
    again = await graph.ainvoke(None, second.config)

    after = [state async for state in graph.aget_state_history(config)]
    assert [message.content for message in forked["messages"]][:3] == [
        "hello",
        second.values["messages"][1].content,
        "no!",
    ]
    assert len(again["messages"]) == 4
    assert after[-len(before) :] == before


class Sum(TypedDict):
    total: int


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))  # noqa: S301 - written here


@pytest.mark.parametrize("transport", [copy.copy, copy.deepcopy, pickled])
async def test_states_of_subgraphs_belong_to_the_owner_that_a_config_names(
    persistence: Any, config: Any, user_id: str, transport: Any
) -> None:
    """LangGraph makes the configs of subgraphs of the thread id and the namespace only."""
    saver = PersistenceSaver(persistence)
    config["configurable"]["user_id"] = user_id
    inner, outer = StateGraph(Sum), StateGraph(Sum)
    inner.add_node("ask", lambda state: {"total": state["total"] + interrupt("how many?")})
    inner.add_edge(START, "ask")
    outer.add_node("inner", inner.compile())
    outer.add_edge(START, "inner")
    graph = outer.compile(checkpointer=saver)
    await graph.ainvoke({"total": 1}, config)

    nested = (await graph.aget_state(config, subgraphs=True)).tasks[0].state
    named = transport((await graph.aget_state(config)).tasks[0].state)
    await graph.aupdate_state(named, {"total": 5})

    assert nested.values == {"total": 1}
    assert (await graph.aget_state(named)).values == {"total": 5}
    history = [one.values async for one in graph.aget_state_history(named)]
    assert history[0] == {"total": 5}
    assert await graph.ainvoke(Command(resume=2), config) == {"total": 7}
    named["configurable"]["user_id"] = "somebody else"
    assert (await graph.aget_state(named)).values == {}
    named["configurable"] |= {"user_id": None, "thread_id": f"{config['configurable']['thread_id']}"}
    with pytest.raises(InvalidInputError, match="user_id"):
        await graph.aget_state(named)


@pytest.mark.parametrize("durability", DURABILITIES)
async def test_a_copy_of_a_checkpoint_has_the_values_of_its_original(
    saver: PersistenceSaver, config: Any, durability: Durability
) -> None:
    """LangGraph saves a copy beside the original, under the original's parent, and names no channel as changed."""
    builder = StateGraph(Order)
    builder.add_node("add", lambda state: {"total": state["total"] + 1, "notes": ["added"]})
    builder.add_node("ask", lambda _: {"approved": interrupt("sure?")})
    builder.add_edge(START, "add")
    builder.add_edge("add", "ask")
    seen: list[Any] = []
    for checkpointer in (InMemorySaver(), saver):
        graph = builder.compile(checkpointer=checkpointer)
        await graph.ainvoke({"total": 1}, config, durability=durability)
        await graph.aupdate_state(config, {"total": 20}, as_node="add")
        for _ in range(2):
            copied = await graph.aupdate_state(config, None, as_node="__copy__")
            seen.append((await graph.aget_state(copied)).values)
        seen.append(without_ids(await graph.ainvoke(None, copied)))
        seen.append(await graph.ainvoke(Command(resume=True), config))
        first = [state async for state in graph.aget_state_history(config)][-1]
        seen.append((await graph.aget_state(await graph.aupdate_state(first.config, None, as_node="__copy__"))).values)

    assert seen[0]["total"] == 20
    assert seen[len(seen) // 2 :] == seen[: len(seen) // 2]


async def test_a_graph_that_failed_goes_on_where_it_failed(saver: PersistenceSaver, config: Any) -> None:
    calls: list[str] = []

    def fails_once(_: Any) -> dict[str, Any]:
        calls.append("fails")
        if calls.count("fails") == 1:
            raise ValueError("once")
        return {"notes": ["mended"]}

    def works(_: Any) -> dict[str, Any]:
        calls.append("works")
        return {"notes": ["worked"]}

    builder = StateGraph(Order)
    builder.add_node("fails", fails_once)
    builder.add_node("works", works)
    builder.add_edge(START, "fails")
    builder.add_edge(START, "works")
    graph = builder.compile(checkpointer=saver)
    with pytest.raises(ValueError, match="once"):
        await graph.ainvoke({"notes": []}, config)

    result = await graph.ainvoke(None, config)

    assert sorted(result["notes"]) == ["mended", "worked"]
    assert sorted(calls) == ["fails", "fails", "works"]


async def test_the_sync_methods_run_a_graph_in_any_thread(
    sync_saver: PersistenceSaver, config: Any, threads: Any
) -> None:
    builder = StateGraph(Order)
    builder.add_node("ask", lambda _: {"notes": [interrupt("who?")]})
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=sync_saver)

    threads.submit(graph.invoke, {"notes": []}, config).result()
    result = threads.submit(graph.invoke, Command(resume="me"), config).result()
    history = threads.submit(lambda: list(graph.get_state_history(config))).result()

    assert result == {"notes": ["me"], "messages": []}
    assert [state.metadata["step"] for state in history] == [1, 0, -1]
