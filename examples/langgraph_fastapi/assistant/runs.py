"""Endpoints that run the graph and stream what happens as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, ServerSentEvent

from .dependencies import CurrentUserId, GraphDep, PersistenceDep
from .events import events_of
from .stops import request_stop
from .turns import CutOff, NewTurn, Repeated, Resumed

router = APIRouter(prefix="/threads/{thread_id}/runs", tags=["runs"])


@router.post("", response_class=EventSourceResponse)
async def say(run: NewTurn, graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Answer a message."""
    async for event in events_of(graph, run):
        yield event


@router.post("/resume", response_class=EventSourceResponse)
async def resume(run: Resumed, graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Continue a run that waits for a decision."""
    async for event in events_of(graph, run):
        yield event


@router.post("/continue", response_class=EventSourceResponse)
async def continue_run(run: CutOff, graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Continue an answer that was stopped or cut off."""
    async for event in events_of(graph, run):
        yield event


@router.post("/regenerate", response_class=EventSourceResponse)
async def regenerate(run: Repeated, graph: GraphDep) -> AsyncIterator[ServerSentEvent]:
    """Answer a message again, or what is said in its place."""
    async for event in events_of(graph, run):
        yield event


@router.post("/stop", status_code=202)
async def stop(thread_id: str, persistence: PersistenceDep, user_id: CurrentUserId) -> None:
    """Ask the run that is in progress, in whatever process, to stop within a second or two."""
    await request_stop(persistence, thread_id, user_id)
