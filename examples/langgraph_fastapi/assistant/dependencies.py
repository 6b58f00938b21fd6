"""Dependencies of endpoints: the store, the current user, the graph, and the claim of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.requests import HTTPConnection
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from agent_persistence import Persistence, RunClaim
from agent_persistence.integrations.fastapi import get_persistence

from .stops import stop_of

Graph = CompiledStateGraph[Any, Any, Any, Any]


async def current_user_id(x_user_id: Annotated[str, Header()]) -> str:
    """Return the requesting user; a placeholder for your application's authentication."""
    return x_user_id


async def get_graph(connection: HTTPConnection) -> Graph:
    """Return the graph, which the application compiled when it started."""
    graph: Graph = connection.app.state.graph
    return graph


PersistenceDep = Annotated[Persistence[str, str], Depends(get_persistence)]
CurrentUserId = Annotated[str, Depends(current_user_id)]
GraphDep = Annotated[Graph, Depends(get_graph)]


def config_of(thread_id: str, user_id: CurrentUserId) -> RunnableConfig:
    """Return the config of a thread; its owner comes from the authentication, never from a client's body."""
    return {"configurable": {"thread_id": thread_id, "user_id": user_id}}


ConfigDep = Annotated[RunnableConfig, Depends(config_of)]


@dataclass(frozen=True)
class Claim:
    """The claim of a thread by a run, and what is set when somebody asks the run to stop."""

    run: RunClaim[str, str]
    stop: asyncio.Event


async def claim(thread_id: str, persistence: PersistenceDep, user_id: CurrentUserId) -> AsyncIterator[Claim]:
    """Claim the thread until the stream has ended: a 404 or a 409 is sent before the first token."""
    async with (
        persistence.claim_run(thread_id, user_id=user_id) as run,
        stop_of(persistence, thread_id, user_id) as stop,
    ):
        yield Claim(run, stop)


# FastAPI's default scope, "request", leaves the block after the last event was sent; "function" would end the claim
# before the first one.
ClaimDep = Annotated[Claim, Depends(claim)]
