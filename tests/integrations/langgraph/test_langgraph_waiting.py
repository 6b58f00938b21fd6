"""Sync calls from the threads that an event loop has for them: none waits for a thread that only it can free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from checkpoints import checkpoint_with, config_of
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.ids import uuid7
from agent_persistence.integrations.langgraph import PersistenceSaver
from graphs import letters

LARGE = letters(200_000, seed=1)


class Text(TypedDict):
    text: str


def saved(saver: PersistenceSaver, config: Any) -> Any:
    checkpoint = checkpoint_with({"text": LARGE, "texts": [LARGE]})
    stored = saver.put(config, checkpoint, {}, checkpoint["channel_versions"])
    saver.put_writes(stored, [("log", [LARGE])], "task")
    return stored


def invoked(saver: PersistenceSaver, config: Any) -> None:
    graph = StateGraph(Text)
    graph.add_node("write", lambda _: {"text": LARGE})
    graph.add_edge(START, "write")
    assert graph.compile(checkpointer=saver).invoke({"text": ""}, config) == {"text": LARGE}


def read(saver: PersistenceSaver, config: Any) -> None:
    found = saver.get_tuple(saved(saver, config))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"text": LARGE, "texts": [LARGE]}


def listed(saver: PersistenceSaver, config: Any) -> None:
    saved(saver, config)
    assert len(list(saver.list(config))) == 1


def looked_back(saver: PersistenceSaver, config: Any) -> None:
    stored = saved(saver, config)
    checkpoint = checkpoint_with({"n": 1})
    after = saver.put(stored, checkpoint, {}, checkpoint["channel_versions"])
    assert saver.get_delta_channel_history(config=after, channels=["log"])["log"]["writes"]


@pytest.mark.parametrize("use", [invoked, read, listed, looked_back])
def test_large_values_need_no_thread_of_the_event_loop(
    plain_settings: PersistenceSettings, use: Callable[[PersistenceSaver, Any], None]
) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))  # which the call itself holds
        async with Persistence(plain_settings) as persistence:
            saver = PersistenceSaver(persistence, user_id="u-1")
            async with asyncio.timeout(20):
                await asyncio.to_thread(use, saver, config_of(str(uuid7())))

    asyncio.run(main())


def test_a_node_that_runs_another_graph_needs_no_thread_of_the_event_loop(plain_settings: PersistenceSettings) -> None:
    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        async with Persistence(plain_settings) as persistence:
            saver = PersistenceSaver(persistence, user_id="u-1")

            def node(_: Text) -> dict[str, Any]:
                invoked(saver, config_of(str(uuid7())))
                return {"text": LARGE}

            outer = StateGraph(Text)
            outer.add_node("node", node)
            outer.add_edge(START, "node")
            graph = outer.compile(checkpointer=saver)
            async with asyncio.timeout(30):
                runs = [graph.ainvoke({"text": ""}, config_of(str(uuid7()))) for _ in range(6)]
                assert await asyncio.gather(*runs) == [{"text": LARGE}] * 6

    asyncio.run(main())


def test_streamed_states_need_no_thread_of_the_event_loop(plain_settings: PersistenceSettings) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))

        async def source() -> AsyncIterator[bytes]:
            yield LARGE.encode()

        async with Persistence(plain_settings) as persistence:
            thread = await persistence.threads.create(user_id="u-1")

            async def write_and_read() -> bytes:
                await persistence.states.put_stream(thread.thread_id, source(), user_id="u-1")
                stream = persistence.states.open_stream(thread.thread_id, user_id="u-1")
                return b"".join([chunk async for chunk in stream])

            async with asyncio.timeout(20):
                read_back = await asyncio.to_thread(
                    lambda: asyncio.run_coroutine_threadsafe(write_and_read(), loop).result()
                )
        assert read_back == LARGE.encode()

    asyncio.run(main())
