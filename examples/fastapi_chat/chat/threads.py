"""Endpoints of threads, their messages, and the agent's state."""

from __future__ import annotations

from fastapi import APIRouter

from agent_persistence import MessageRecord, Page, StateRecord, ThreadNotFoundError, ThreadRecord
from agent_persistence.integrations.fastapi import MessageFilters, ThreadFilters, problems

from . import bodies
from .agent import ReplyDep
from .dependencies import CurrentUserId, PersistenceDep, UnitOfWorkDep

# What writes takes a unit of work, which is committed before the response is sent. What only reads needs no
# transaction: each call of the store is one round trip.
router = APIRouter(prefix="/threads", tags=["threads"], responses=problems())


@router.post("", status_code=201, response_model=bodies.Thread)
async def create_thread(new: bodies.NewThread, uow: UnitOfWorkDep) -> ThreadRecord[str, int]:
    """Create a thread."""
    return await uow.threads.create(name=new.name)


@router.get("", response_model=bodies.ThreadPage)
async def list_threads(
    filters: ThreadFilters, persistence: PersistenceDep, user_id: CurrentUserId
) -> Page[ThreadRecord[str, int]]:
    """List the user's threads, the most recently active first."""
    return await persistence.threads.page(user_id=user_id, **filters)


@router.delete("/{thread_id}", status_code=204)
async def delete_thread(thread_id: str, uow: UnitOfWorkDep) -> None:
    """Delete a thread with its messages and states."""
    if not await uow.threads.delete(thread_id):
        raise ThreadNotFoundError(thread_id)


@router.post("/{thread_id}/messages", status_code=201, response_model=bodies.Message)
async def say(
    thread_id: str, turn: bodies.NewTurn, persistence: PersistenceDep, user_id: CurrentUserId, reply: ReplyDep
) -> MessageRecord[str]:
    """Append the user's message, and return the agent's answer.

    The model is called between two transactions, so that no lock and no connection is held while it runs. Of two
    concurrent requests in a thread, the second one gets a 409, because the first one has saved a newer state.
    """
    await persistence.messages.append(thread_id, {"role": "user", "content": turn.content}, user_id=user_id)
    state = await persistence.states.get(thread_id, user_id=user_id)
    recent = await persistence.messages.page(thread_id, user_id=user_id, limit=50)
    answer = await reply([message.message for message in recent])
    async with persistence.begin(user_id=user_id) as uow:
        said = await uow.messages.append(thread_id, answer)
        turns = state.data["turns"] if state else 0
        await uow.states.put(thread_id, {"turns": turns + 1}, expected_version=state.version if state else 0)
    return said


@router.get("/{thread_id}/messages", response_model=bodies.MessagePage)
async def list_messages(
    thread_id: str, filters: MessageFilters, persistence: PersistenceDep, user_id: CurrentUserId
) -> Page[MessageRecord[str]]:
    """List the newest messages, or those before or after a cursor."""
    page = await persistence.messages.page(thread_id, user_id=user_id, **filters)
    if not page.items:  # the thread has none there, or it does not exist
        await persistence.threads.require(thread_id, user_id=user_id)
    return page


@router.get("/{thread_id}/state", response_model=bodies.State)
async def get_state(thread_id: str, persistence: PersistenceDep, user_id: CurrentUserId) -> StateRecord[str]:
    """Return the agent's latest state, from the cache if possible."""
    return await persistence.states.require(thread_id, user_id=user_id)
