"""What the graph is called with; all that can be refused is refused here.

Once the generator of an endpoint runs, its status 200 has been sent. Dependencies run before.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from agent_persistence.integrations.langgraph import config_at

from . import bodies
from .dependencies import ClaimDep, ConfigDep, CurrentUserId, Graph, GraphDep, PersistenceDep
from .events import Run


async def existing(graph: Graph, config: RunnableConfig | None) -> RunnableConfig:
    """Refuse a checkpoint that was purged: LangGraph would begin with an empty state in its place."""
    if config is None or (await graph.aget_state(config)).created_at is None:
        raise HTTPException(410, "the conversation cannot go back that far any more")
    return config


async def new_turn(
    thread_id: str,
    *,
    turn: bodies.Turn,
    claim: ClaimDep,
    config: ConfigDep,
    graph: GraphDep,
    persistence: PersistenceDep,
    user_id: CurrentUserId,
) -> Run:
    """Prepare to answer a new message, and make the first one the thread's title."""
    if turn.after is not None:
        message = await persistence.messages.require(thread_id, turn.after, user_id=user_id)
        config = await existing(graph, config_at(config, message))
    elif (await graph.aget_state(config)).interrupts:  # a new message would drop the question
        raise HTTPException(409, "a question waits for a decision")
    thread = await persistence.threads.require(thread_id, user_id=user_id)
    if thread.name is None:
        await persistence.threads.update(thread_id, name=turn.content[:60], user_id=user_id)
    return Run({"messages": [HumanMessage(turn.content)]}, config, claim)


async def resumed(decision: bodies.Decision, claim: ClaimDep, config: ConfigDep, graph: GraphDep) -> Run:
    """Prepare to continue a run that waits for a decision."""
    if not (await graph.aget_state(config)).interrupts:
        raise HTTPException(409, "nothing waits for a decision")
    return Run(Command(resume=decision.value), config, claim)


async def cut_off(claim: ClaimDep, config: ConfigDep, graph: GraphDep) -> Run:
    """Prepare to continue, after its last complete step, a run that was stopped or whose process died."""
    state = await graph.aget_state(config)
    if not state.next or state.interrupts:
        raise HTTPException(409, "there is nothing to continue")
    return Run(None, config, claim)


async def asked(
    thread_id: str,
    *,
    again: bodies.Again,
    config: ConfigDep,
    graph: GraphDep,
    persistence: PersistenceDep,
    user_id: CurrentUserId,
) -> RunnableConfig:
    """Return the config of the first checkpoint that has the user's message."""
    message = await persistence.messages.require(thread_id, again.message_id, user_id=user_id)
    if message.role != "user":
        raise HTTPException(422, "name the user's message, not its answer")
    return await existing(graph, config_at(config, message))


Asked = Annotated[RunnableConfig, Depends(asked)]


async def repeated(again: bodies.Again, claim: ClaimDep, config: Asked, graph: GraphDep) -> Run:
    """Prepare to answer a user's message again, or another one in its place: a new branch; the other answers stay."""
    if again.content is None:
        return Run(None, config, claim)
    before = (await graph.aget_state(config)).parent_config
    return Run({"messages": [HumanMessage(again.content)]}, await existing(graph, before), claim)


NewTurn = Annotated[Run, Depends(new_turn)]
Resumed = Annotated[Run, Depends(resumed)]
CutOff = Annotated[Run, Depends(cut_off)]
Repeated = Annotated[Run, Depends(repeated)]
