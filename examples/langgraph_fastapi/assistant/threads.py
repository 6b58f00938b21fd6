"""Endpoints of the sidebar and of histories. They only read, or write one row: no transaction spans a request."""

from __future__ import annotations

from fastapi import APIRouter

from agent_persistence import MessageRecord, Page, ThreadNotFoundError, ThreadRecord
from agent_persistence.integrations.langgraph import branch_of

from . import bodies
from .dependencies import ConfigDep, CurrentUserId, GraphDep, PersistenceDep

router = APIRouter(prefix="/threads", tags=["threads"])


@router.post("", status_code=201, response_model=bodies.Thread)
async def create(new: bodies.Title, persistence: PersistenceDep, user_id: CurrentUserId) -> ThreadRecord[str, str]:
    """Create a thread."""
    return await persistence.threads.create(name=new.name, user_id=user_id)


@router.get("", response_model=bodies.Sidebar)
async def sidebar(
    persistence: PersistenceDep, user_id: CurrentUserId, *, after: str | None = None, search: str | None = None
) -> Page[ThreadRecord[str, str]]:
    """List the user's threads, the most recently active first."""
    return await persistence.threads.page(user_id=user_id, after=after, search=search)


@router.put("/{thread_id}/name", response_model=bodies.Thread)
async def rename(
    thread_id: str, title: bodies.Title, persistence: PersistenceDep, user_id: CurrentUserId
) -> ThreadRecord[str, str]:
    """Rename a thread."""
    return await persistence.threads.update(thread_id, name=title.name, user_id=user_id)


@router.delete("/{thread_id}", status_code=204)
async def delete(thread_id: str, persistence: PersistenceDep, user_id: CurrentUserId) -> None:
    """Delete a thread with its messages and checkpoints."""
    if not await persistence.threads.delete(thread_id, user_id=user_id):
        raise ThreadNotFoundError(thread_id)


@router.get("/{thread_id}/messages")
async def history(
    thread_id: str,
    persistence: PersistenceDep,
    user_id: CurrentUserId,
    *,
    before: str | None = None,
    last: str | None = None,
) -> bodies.History:
    """Return the newest branch, or the one that ends with ``last``; ``before`` is the cursor of an older page."""
    page = await persistence.messages.page(thread_id, user_id=user_id, limit=200, before=before)
    if not page.items:  # the thread has none there, or it does not exist
        await persistence.threads.require(thread_id, user_id=user_id)
    branch = branch_of(page.items, last=last)
    earlier = branch[0].record.meta.get("follows") if branch else None
    return bodies.History(
        messages=[body_of(one.record, one.branches, one.index) for one in branch],
        before=page.before if earlier else None,
        last=earlier,
    )


def body_of(row: MessageRecord[str], branches: tuple[str, ...], branch: int) -> bodies.Message:
    """Return a message as the page shows it."""
    return bodies.Message(
        message_id=row.message_id, role=row.role, text=row.text, branches=list(branches), branch=branch
    )


@router.get("/{thread_id}/pauses")
async def pauses(
    thread_id: str, graph: GraphDep, config: ConfigDep, persistence: PersistenceDep, user_id: CurrentUserId
) -> list[bodies.Pause]:
    """Return the questions that the graph waits for, also after a restart of the server."""
    await persistence.threads.require(thread_id, user_id=user_id)
    state = await graph.aget_state(config)
    return [bodies.Pause(interrupt_id=one.id, value=one.value) for one in state.interrupts]
