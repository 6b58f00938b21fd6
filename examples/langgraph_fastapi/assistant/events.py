"""A run of the graph as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

from fastapi.sse import ServerSentEvent
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig

from agent_persistence.integrations.fastapi import problem_of

from .dependencies import Claim, Graph
from .stops import until


@dataclass(frozen=True)
class Run:
    """What the graph is called with, and the claim of its thread."""

    input: Any
    config: RunnableConfig
    claim: Claim


async def events_of(graph: Graph, run: Run) -> AsyncIterator[ServerSentEvent]:
    """Yield ``token`` and ``interrupt`` events, and at the end ``done``, ``stopped`` or ``error``.

    If the client goes away, or somebody asks for a stop, the run ends. The user's message and the steps that are
    complete have been saved: the run can be continued, or the message be answered again.
    """
    try:
        # "sync": a step is saved before the next one begins, so what a client has seen as complete is in the database.
        stream = graph.astream(run.input, run.config, stream_mode=["messages", "updates"], durability="sync")
        # Closed here, and not when it is garbage-collected: the model must not go on for a client that went away.
        async with aclosing(cast("AsyncGenerator[Any]", stream)) as parts:
            async for mode, part in until(run.claim.stop, parts):
                for event in _tokens(part) if mode == "messages" else _interrupts(part):
                    yield event
        last = ServerSentEvent(event="stopped" if run.claim.stop.is_set() else "done", data={})
    except Exception as error:  # noqa: BLE001 - whatever it was, the client must not see an answer that stops in the middle
        last = ServerSentEvent(event="error", data=problem_of(error))
    await run.claim.run.release()  # before the last event: its reader may say something at once
    yield last


def _tokens(part: Any) -> list[ServerSentEvent]:
    message, _ = part
    # The graph's other messages are streamed as well, such as the results of tools. Calls of tools have no text.
    if not isinstance(message, AIMessage) or not message.text:
        return []
    return [ServerSentEvent(event="token", data={"message_id": message.id, "text": message.text})]


def _interrupts(part: dict[str, Any]) -> list[ServerSentEvent]:
    return [
        ServerSentEvent(event="interrupt", data={"interrupt_id": one.id, "value": one.value})
        for one in part.get("__interrupt__", ())
    ]
