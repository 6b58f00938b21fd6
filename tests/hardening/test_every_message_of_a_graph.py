"""Every call of LangGraph's checkpointer, and every message on its way to PostgreSQL, as in ``test_every_message``."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hardening.every_message import KINDS, SLACK, USER, Call, Store, check
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from torture.proxy import Proxy
from torture.servers import PostgreSQL

from agent_persistence.errors import UnavailableError
from agent_persistence.integrations.langgraph import PersistenceSaver

CHECKPOINT_ID = "1ef00000-0000-6000-8000-000000000001"
NEXT_ID = "1ef00000-0000-6000-8000-000000000002"


def saver_of(store: Store, mirror: str | None = None) -> PersistenceSaver:
    return PersistenceSaver(store, user_id=USER, mirror=mirror)


def config_of(thread_id: str, checkpoint_id: str | None = None) -> Any:
    named = {} if checkpoint_id is None else {"checkpoint_id": checkpoint_id}
    return {"configurable": {"thread_id": thread_id, "checkpoint_ns": "", **named}}


def arguments(thread_id: str, checkpoint_id: str, parent_id: str | None = None) -> Any:
    values = {"messages": [HumanMessage("hello", id=f"{thread_id}-m")], "count": 1}
    checkpoint = {**empty_checkpoint(), "id": checkpoint_id, "channel_values": values}
    checkpoint["channel_versions"] = dict.fromkeys(values, 1)
    return config_of(thread_id, parent_id), checkpoint, {"run_id": f"{thread_id}-r"}, checkpoint["channel_versions"]


async def put(store: Store, thread_id: str, checkpoint_id: str = CHECKPOINT_ID, mirror: str | None = None) -> None:
    parent = None if checkpoint_id == CHECKPOINT_ID else CHECKPOINT_ID
    await saver_of(store, mirror).aput(*arguments(thread_id, checkpoint_id, parent))


async def put_two(store: Store, thread_id: str) -> None:
    await put(store, thread_id)
    await put(store, thread_id, NEXT_ID)


async def put_writes(store: Store, thread_id: str) -> None:
    await saver_of(store).aput_writes(config_of(thread_id, CHECKPOINT_ID), [("count", 2)], "task")


async def listed(store: Store, thread_id: str) -> list[Any]:
    return [found async for found in saver_of(store).alist(config_of(thread_id))]


async def in_a_thread(store: Store, thread_id: str) -> None:
    with ThreadPoolExecutor(1) as threads:
        put = asyncio.get_running_loop().run_in_executor(
            threads, lambda: saver_of(store).put(*arguments(thread_id, CHECKPOINT_ID))
        )
        await put


CALLS = {
    "aput": Call(put, "graph_checkpoints", 1),
    "aput of a child": Call(lambda store, at: put(store, at, NEXT_ID), "graph_checkpoints", 1, prepare=put),
    "aput with a mirror": Call(lambda store, at: put(store, at, mirror="messages"), "messages", 1),
    "put from a thread": Call(in_a_thread, "graph_checkpoints", 1),
    "aput_writes": Call(put_writes, "graph_values", 1, prepare=put),
    "aget_tuple": Call(lambda store, at: saver_of(store).aget_tuple(config_of(at)), prepare=put_two),
    "aget_tuple of nothing": Call(
        lambda store, at: saver_of(store).aget_tuple(config_of(at)), seconds=lambda s: 2 * s.call_seconds
    ),
    "alist": Call(listed, prepare=put_two),
    "aget_delta_channel_history": Call(
        lambda store, at: saver_of(store).aget_delta_channel_history(config=config_of(at), channels=["count"]),
        prepare=put_two,
    ),
    "adelete_thread": Call(lambda store, at: saver_of(store).adelete_thread(at), "threads", -1, prepare=put),
    "adelete_for_runs": Call(
        lambda store, at: saver_of(store).adelete_for_runs([f"{at}-r"]), "graph_checkpoints", -1, prepare=put
    ),
    "acopy_thread": Call(
        lambda store, at: saver_of(store).acopy_thread(at, f"{at}-copy"), "graph_checkpoints", 1, prepare=put
    ),
    "aprune to the latest": Call(
        lambda store, at: saver_of(store).aprune([at]), "graph_checkpoints", -1, prepare=put_two
    ),
    "aprune of all": Call(
        lambda store, at: saver_of(store).aprune([at], strategy="delete"), "graph_checkpoints", -2, prepare=put_two
    ),
}


async def test_a_deletion_is_known_to_be_committed_although_its_connection_closes_at_any_message(
    limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    await check("close", CALLS["aprune of all"], limited, messages, postgresql)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_of_the_checkpointer_ends_truly_and_in_time(
    kind: str, name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    await check(kind, CALLS[name], limited, messages, postgresql)


async def test_saves_that_wait_for_their_turn_end_when_a_call_must(limited: Store, messages: Proxy) -> None:
    thread_id = (await limited.threads.create(user_id=USER)).thread_id
    saver = saver_of(limited)
    messages.stall()
    started = time.monotonic()

    results = await asyncio.gather(
        *(saver.aput(*arguments(thread_id, CHECKPOINT_ID)) for _ in range(5)), return_exceptions=True
    )

    assert time.monotonic() - started < limited.settings.call_seconds + SLACK
    assert {type(result) for result in results} == {UnavailableError}
