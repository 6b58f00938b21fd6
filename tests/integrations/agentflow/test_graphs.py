"""Graphs of both frameworks, run as they run anywhere, on our checkpointer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from frameworks import Framework, framework, need_frameworks

from agent_persistence import migrate
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

need_frameworks()

pytestmark = [
    pytest.mark.filterwarnings("default:::agentflow"),  # what it warns of is its own
    pytest.mark.filterwarnings("default:::pyagenity"),
]


def compiled(words: Framework, checkpointer: Any, container: Any = None, **nodes: Any) -> Any:
    """A graph of these nodes, one after the other."""
    graph = words.graph(words.state(), container=container)
    names = list(nodes)
    for name in names:
        graph.add_node(name, nodes[name])
    graph.set_entry_point(names[0])
    for one, following in zip(names, [*names[1:], words.graph_end], strict=True):
        graph.add_edge(one, following)
    return graph.compile(checkpointer=checkpointer)


def answers(words: Framework) -> Any:
    """A node that says how many messages it has seen."""

    async def answer(state: Any, config: dict[str, Any]) -> Any:  # noqa: ARG001 - the framework passes both
        return [words.text(f"seen {len(state.context)}", "assistant")]

    return answer


def asked(words: Framework, text: str) -> dict[str, Any]:
    return {"messages": [words.text(text)]}


async def test_a_graph_goes_on_where_another_process_left_off(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    for number in range(3):
        checkpointer = make(words)
        app = compiled(words, checkpointer, answer=answers(words))
        await app.ainvoke(asked(words, f"question {number}"), config=dict(config))
        await app.aclose()

    state = await make(words).aget_state(dict(config))
    said = [one.text() for one in await make(words).alist_messages(config)]
    assert [one.text() for one in state.context][-2:] == ["question 2", f"seen {len(state.context) - 1}"]
    assert [text for text in said if text.startswith("question")] == [f"question {number}" for number in range(3)]
    assert len(said) == len(set(said))


def test_a_graph_may_be_invoked_without_an_event_loop(words: Framework, make: Any, config: dict[str, Any]) -> None:
    app = compiled(words, make(words), answer=answers(words))

    for number in range(2):
        result = app.invoke(asked(words, f"question {number}"), config=dict(config))

    assert result["messages"][-1].text().startswith("seen")


async def test_a_conversation_is_seen_by_all(words: Framework, make: Any, address: str, config: dict[str, Any]) -> None:
    app = compiled(words, make(words), answer=answers(words))

    await app.ainvoke(asked(words, "Where is my order?"), config=dict(config))

    async with Persistence[Any, Any](PersistenceSettings(_env_file=None, database_url=address)) as persistence:
        page = await persistence.messages.page(config["thread_id"], user_id=config["user_id"])
        found = await persistence.messages.page(config["thread_id"], user_id=config["user_id"], search="ORDER")
    assert [one.message for one in page] == [
        {"role": "user", "content": "Where is my order?"},
        {"role": "assistant", "content": "seen 1"},
    ]
    assert [one.text for one in found] == ["Where is my order?"]


async def test_graphs_of_one_process_share_a_checkpointer(words: Framework, make: Any, config: dict[str, Any]) -> None:
    checkpointer, configs = make(words), [{**config, "thread_id": f"{config['thread_id']}-{name}"} for name in "ab"]
    apps = [compiled(words, checkpointer, answer=answers(words)) for _ in configs]

    for app, one_config in zip(apps, configs, strict=True):
        await app.ainvoke(asked(words, f"in {one_config['thread_id']}"), config=dict(one_config))

    for one_config in configs:
        assert [one.text() for one in await checkpointer.alist_messages(one_config)] == [
            f"in {one_config['thread_id']}",
            "seen 1",
        ]


async def test_graphs_in_containers_of_their_own_keep_checkpointers_of_their_own(
    agentflow: Framework, make: Any, make_database: Any, config: dict[str, Any]
) -> None:
    from injectq import InjectQ  # noqa: PLC0415 - where it is installed
    from injectq.core.context import ContainerContext  # noqa: PLC0415 - where it is installed

    elsewhere = await make_database()
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=elsewhere))
    checkpointers = [make(agentflow), make(agentflow, postgres_dsn=elsewhere)]
    containers = [InjectQ() for _ in checkpointers]
    apps = [
        compiled(agentflow, checkpointer, container, answer=answers(agentflow))
        for checkpointer, container in zip(checkpointers, containers, strict=True)
    ]
    ContainerContext.clear_current()  # the graphs have activated them

    for number, (app, container) in enumerate(zip(apps, containers, strict=True)):
        with container.context():
            await app.ainvoke(asked(agentflow, f"question {number}"), config=dict(config))

    said = [[one.text() for one in await checkpointer.alist_messages(config)] for checkpointer in checkpointers]
    assert said == [["question 0", "seen 1"], ["question 1", "seen 1"]]


async def test_pyagenitys_graphs_name_their_state_class_in_the_config(make: Any, config: dict[str, Any]) -> None:
    pyagenity = framework("pyagenity")

    class Order(pyagenity.state):  # type: ignore[misc,name-defined]  # a class at run time
        number: int = 0

    async def count(state: Any, config: dict[str, Any]) -> Any:  # noqa: ARG001 - the framework passes both
        state.number += 1
        return state

    checkpointer, named = make(pyagenity), {**config, "state_class": Order}
    graph = pyagenity.graph(Order())
    graph.add_node("count", count)
    graph.set_entry_point("count")
    graph.add_edge("count", pyagenity.graph_end)
    app = graph.compile(checkpointer=checkpointer)

    for number in range(2):
        await app.ainvoke(asked(pyagenity, f"question {number}"), config=dict(named))

    assert (await checkpointer.aget_state(dict(named))).number == 2


async def test_a_run_stops_when_another_process_asks_it_to(
    agentflow: Framework, make: Any, config: dict[str, Any]
) -> None:
    working, finish = asyncio.Event(), asyncio.Event()

    async def work(state: Any, config: dict[str, Any]) -> Any:  # noqa: ARG001 - the framework passes both
        working.set()
        await finish.wait()
        return [agentflow.text("worked", "assistant")]

    app = compiled(agentflow, make(agentflow), work=work, answer=answers(agentflow))
    elsewhere = compiled(agentflow, make(agentflow), work=work, answer=answers(agentflow))
    run = asyncio.create_task(app.ainvoke(asked(agentflow, "go"), config=dict(config)))
    await working.wait()

    stopped = await elsewhere.astop(dict(config))
    finish.set()
    await run

    assert stopped == {"ok": True, "running": True}
    state = await make(agentflow).aget_state(dict(config))
    assert state.is_interrupted()
    assert "seen" not in "".join(one.text() for one in state.context)


async def test_a_tool_is_not_called_again_after_a_crash(
    agentflow: Framework, make: Any, config: dict[str, Any]
) -> None:
    ledger = make(agentflow)

    await ledger.aput_tool_result(config, "call", {"__kind__": "raw", "value": "charged"})
    await ledger.arelease()
    await make(agentflow).aput_tool_result(config, "call", {"__kind__": "raw", "value": "charged twice"})

    assert (await make(agentflow).aget_tool_result(config, "call"))["value"] == "charged"
