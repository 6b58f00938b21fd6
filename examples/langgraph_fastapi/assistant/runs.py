"""Endpoints that run the graph and stream what happens as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from langchain_core.messages import HumanMessage
from langgraph.types import Command

from agent_persistence.integrations.langgraph import config_at

from . import bodies
from .dependencies import ClaimedConfig, CurrentUserId, GraphDep, PersistenceDep
from .events import Run, events_of

router = APIRouter(prefix="/threads/{thread_id}/runs", tags=["runs"])


# All that can be refused is refused in dependencies: once the generator of an endpoint runs, 200 has been sent.


async def new_turn(
    thread_id: str, turn: bodies.Turn, config: ClaimedConfig, persistence: PersistenceDep, user_id: CurrentUserId
) -> Run:
    """Prepare to answer a new message, and make the first one the thread's title."""
    thread = await persistence.threads.require(thread_id, user_id=user_id)
    if thread.name is None:
        await persistence.threads.update(thread_id, name=turn.content[:60], user_id=user_id)
    if turn.after is not None:
        config = config_at(config, await persistence.messages.require(thread_id, turn.after, user_id=user_id))
    return Run({"messages": [HumanMessage(turn.content)]}, config)


async def resumed(decision: bodies.Decision, config: ClaimedConfig, graph: GraphDep) -> Run:
    """Prepare to continue a run that waits for a decision."""
    if not (await graph.aget_state(config)).interrupts:
        raise HTTPException(409, "nothing waits for a decision")
    return Run(Command(resume=decision.value), config)


async def again(
    thread_id: str, again: bodies.Again, config: ClaimedConfig, persistence: PersistenceDep, user_id: CurrentUserId
) -> Run:
    """Prepare to answer a user's message again: a new branch; the other answers stay."""
    message = await persistence.messages.require(thread_id, again.message_id, user_id=user_id)
    if message.role != "user":
        raise HTTPException(422, "name the user's message, not its answer")
    return Run(None, config_at(config, message))


@router.post("", response_class=EventSourceResponse)
async def say(run: Annotated[Run, Depends(new_turn)], graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Answer a message."""
    async for event in events_of(graph, run):
        yield event


@router.post("/resume", response_class=EventSourceResponse)
async def resume(run: Annotated[Run, Depends(resumed)], graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Continue a run that waits for a decision."""
    async for event in events_of(graph, run):
        yield event


@router.post("/regenerate", response_class=EventSourceResponse)
async def regenerate(run: Annotated[Run, Depends(again)], graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Answer a message again."""
    async for event in events_of(graph, run):
        yield event
