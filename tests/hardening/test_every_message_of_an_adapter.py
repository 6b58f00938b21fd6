"""Every call of the frameworks' adapters, and every message on its way to PostgreSQL, as in ``test_every_message``.

A call that writes and is cancelled at any message has been settled when its caller is told: nothing follows.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from connections import all_are_back
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions import Session
from google.genai.types import Content, Part
from hardening.every_message import KINDS, MOST_REQUESTS, USER, Call, Store, a_run, check, rows
from langgraph.store.base import GetOp, PutOp
from torture.proxy import Link, Proxy
from torture.servers import PostgreSQL

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.integrations.langgraph import PersistenceStore
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.settings import PersistenceSettings

HELLO: Any = {"role": "user", "content": "hello"}
ENTRIES: Any = [{"type": "user", "uuid": str(n), "message": HELLO} for n in range(2)]


def begins_a_thread(settings: PersistenceSettings) -> float:
    """A call that finds no thread, and a transaction that begins one."""
    return settings.call_seconds + a_run(settings)


# --- OpenAI Agents SDK ---


def session_of(store: Store, thread_id: str) -> PersistenceSession:
    return PersistenceSession(thread_id, persistence=store, user_id=USER)


async def with_items(store: Store, thread_id: str) -> None:
    await session_of(store, thread_id).add_items([HELLO, HELLO])


async def replace_items(store: Store, thread_id: str) -> None:
    assert await session_of(store, thread_id)._atomic_replace_items([HELLO])  # noqa: SLF001 - what a compaction calls


# --- Claude Agent SDK ---


def transcripts(store: Store) -> PersistenceSessionStore:
    return PersistenceSessionStore(persistence=store, user_id=USER)


def transcript(thread_id: str) -> Any:
    return {"project_key": "shop", "session_id": thread_id}


async def with_entries(store: Store, thread_id: str) -> None:
    await transcripts(store).append(transcript(thread_id), ENTRIES[:1])


# --- Google ADK ---


def sessions_of(store: Store) -> PersistenceSessionService:
    return PersistenceSessionService(persistence=store)


def adk(thread_id: str) -> Any:
    return {"app_name": "app", "user_id": USER, "session_id": thread_id}


def an_event() -> Event:
    delta = {"n": 1, "app:n": 1, "user:n": 1}
    content = Content(role="user", parts=[Part(text="hello")])
    return Event(author="user", content=content, actions=EventActions(state_delta=delta))


created: dict[str, Session] = {}


async def with_a_session(store: Store, thread_id: str) -> None:
    created[thread_id] = await sessions_of(store).create_session(**adk(thread_id))


async def append_event(store: Store, thread_id: str) -> None:
    await sessions_of(store).append_event(created[thread_id], an_event())


async def import_session(store: Store, thread_id: str) -> None:
    session = Session(id=thread_id, app_name="app", user_id=USER, events=[an_event()], state={"n": 1})
    await sessions_of(store).import_session(session)


# --- LangGraph ---


def memory_of(store: Store) -> PersistenceStore:
    return PersistenceStore(store, owner_of=lambda namespace: namespace[0])


async def with_memories(store: Store, thread_id: str) -> None:
    await memory_of(store).aput((USER, thread_id), "k", {"n": 1})


async def batch(store: Store, thread_id: str) -> None:
    ops = [GetOp((USER, thread_id), "k"), *(PutOp((owner, thread_id), "new", {"n": 1}) for owner in (USER, "eve"))]
    await memory_of(store).abatch(ops)


WRITES = {
    "PersistenceSession.add_items": Call(
        lambda store, at: session_of(store, at).add_items([HELLO, HELLO]), "messages", 2, begins_a_thread
    ),
    "PersistenceSession.add_items of a new session": Call(
        lambda store, at: session_of(store, f"{at}-new").add_items([HELLO]), "threads", 1, begins_a_thread
    ),
    "PersistenceSession.pop_item": Call(
        lambda store, at: session_of(store, at).pop_item(), "messages", -1, a_run, prepare=with_items
    ),
    "PersistenceSession.clear_session": Call(
        lambda store, at: session_of(store, at).clear_session(), "messages", -2, prepare=with_items
    ),
    "PersistenceSession of a compaction": Call(replace_items, "messages", -1, a_run, prepare=with_items),
    "PersistenceSessionStore.append": Call(
        lambda store, at: transcripts(store).append(transcript(at), ENTRIES),
        *("messages", 1, begins_a_thread),
        prepare=with_entries,
    ),
    "PersistenceSessionStore.append of a new session": Call(
        lambda store, at: transcripts(store).append(transcript(at), ENTRIES), "threads", 1, lambda s: 2 * a_run(s)
    ),
    "PersistenceSessionStore.delete": Call(
        lambda store, at: transcripts(store).delete(transcript(at)), "threads", -1, a_run, prepare=with_entries
    ),
    "PersistenceSessionService.create_session": Call(
        lambda store, at: sessions_of(store).create_session(**adk(at), state={"n": 1}),
        *("threads", 1, lambda s: a_run(s) + 2 * s.call_seconds),
    ),
    "PersistenceSessionService.import_session": Call(
        import_session, "messages", 1, lambda s: a_run(s) + 2 * s.call_seconds
    ),
    "PersistenceSessionService.append_event": Call(append_event, "messages", 1, a_run, prepare=with_a_session),
    "PersistenceSessionService.delete_session": Call(
        lambda store, at: sessions_of(store).delete_session(**adk(at)), "threads", -1, a_run, prepare=with_a_session
    ),
}
OTHERS = {
    "PersistenceSession.get_items": Call(lambda store, at: session_of(store, at).get_items(), prepare=with_items),
    "PersistenceSessionStore.load": Call(
        lambda store, at: transcripts(store).load(transcript(at)), prepare=with_entries
    ),
    "PersistenceSessionStore.list_session_summaries": Call(
        lambda store, _: transcripts(store).list_session_summaries("shop"), prepare=with_entries
    ),
    "PersistenceSessionStore.list_subkeys": Call(lambda store, at: transcripts(store).list_subkeys(transcript(at))),
    "PersistenceSessionService.get_session": Call(
        lambda store, at: sessions_of(store).get_session(**adk(at)),
        seconds=lambda s: 5 * s.call_seconds,
        prepare=with_a_session,
    ),
    "PersistenceSessionService.list_sessions": Call(
        lambda store, _: sessions_of(store).list_sessions(app_name="app", user_id=USER),
        seconds=lambda s: 4 * s.call_seconds,
        prepare=with_a_session,
    ),
    "PersistenceSessionService.get_user_state": Call(
        lambda store, _: sessions_of(store).get_user_state(app_name="app", user_id=USER)
    ),
    "PersistenceStore.aput": Call(lambda store, at: memory_of(store).aput((USER, at), "k", {"n": 1}), "items", 1),
    "PersistenceStore.aget": Call(lambda store, at: memory_of(store).aget((USER, at), "k"), prepare=with_memories),
    "PersistenceStore.adelete": Call(
        lambda store, at: memory_of(store).adelete((USER, at), "k"), "items", -1, prepare=with_memories
    ),
    "PersistenceStore.asearch": Call(lambda store, at: memory_of(store).asearch((USER, at)), prepare=with_memories),
    "PersistenceStore.alist_namespaces": Call(
        lambda store, at: memory_of(store).alist_namespaces(prefix=(USER, at)), prepare=with_memories
    ),
    "PersistenceStore.abatch of two owners": Call(batch, "items", 2, a_run, prepare=with_memories),
}
CALLS = {**WRITES, **OTHERS}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_ends_truly_and_in_time_whatever_happens_at_any_message(
    kind: str, name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    await check(kind, CALLS[name], limited, messages, postgresql)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITES)
async def test_a_call_that_is_cancelled_at_any_message_is_done_or_undone_when_its_caller_is_told(
    name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    call = WRITES[name]
    for request in range(1, MOST_REQUESTS):
        thread_id = (await limited.threads.create(user_id=USER)).thread_id
        if call.prepare is not None:
            await call.prepare(limited, thread_id)
        await asyncio.sleep(0.05)  # pinned connections go back to the pool: each call begins alike
        before = await rows(postgresql, limited, call.table)
        task = asyncio.ensure_future(call.make(limited, thread_id))

        async def cancel(_: Link, task: asyncio.Future[Any] = task) -> None:
            task.cancel()

        messages.trap(request, cancel)
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        added, came_by = await rows(postgresql, limited, call.table) - before, messages.requests >= request
        messages.release()
        at = f"cancelled at request {request}: {outcome!r}, {added} rows"

        assert outcome is None or not isinstance(outcome, Exception), at
        assert added in ({0, call.rows} if isinstance(outcome, asyncio.CancelledError) else {call.rows}), at
        await asyncio.sleep(0.1)
        assert await rows(postgresql, limited, call.table) - before == added, at
        assert await all_are_back(limited), at
        if not came_by:
            return
    raise AssertionError(f"it sends more than {MOST_REQUESTS} requests: none went undisturbed")
