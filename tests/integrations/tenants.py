"""Calls of the frameworks' adapters on conversations of somebody else, and what may have come of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.sessions import Session
from google.genai.types import Content, Part
from integration.repository_testing import run_sql
from langgraph.store.base import PutOp

from agent_persistence.errors import PersistenceError
from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.integrations.langgraph import PersistenceStore
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.persistence import Persistence

Store = Persistence[Any, Any]
Call = Callable[[Store, str, str], Awaitable[Any]]
"""Called with the store, the owner who calls, and the id that a conversation has in all frameworks."""

APP = "shop"
HELLO: Any = {"role": "user", "content": "hello"}
ENTRY: Any = {"type": "user", "uuid": "1", "message": HELLO}
DELTA = {"n": 1, "user:n": 1}


def openai(store: Store, owner: str, at: str) -> PersistenceSession:
    return PersistenceSession(f"{at}-openai", persistence=store, user_id=owner)


def claude(store: Store, owner: str) -> PersistenceSessionStore:
    return PersistenceSessionStore(persistence=store, user_id=owner, scoped=False)


def transcript(at: str, **more: str) -> Any:
    return {"project_key": APP, "session_id": f"{at}-claude", **more}


def adk(store: Store) -> PersistenceSessionService:
    return PersistenceSessionService(persistence=store, scoped=False)


def session_key(owner: str, at: str) -> dict[str, Any]:
    return {"app_name": APP, "user_id": owner, "session_id": f"{at}-adk"}


def session(owner: str, at: str, *events: Event) -> Session:
    return Session(id=f"{at}-adk", app_name=APP, user_id=owner, events=list(events), state=dict(DELTA))


def event() -> Event:
    content = Content(role="user", parts=[Part(text="hello")])
    return Event(id="e", author="user", timestamp=7.0, content=content, actions=EventActions(state_delta=dict(DELTA)))


def memory(store: Store, owner: str) -> PersistenceStore:
    return PersistenceStore(store, user_id=owner)


async def compaction(store: Store, owner: str, at: str) -> Any:
    snapshot = await openai(store, owner, at)._get_compaction_snapshot(10)  # noqa: SLF001 - what the SDK calls
    return snapshot and (snapshot.items, snapshot.complete, await snapshot.replace_suffix(0, [HELLO]))


async def whole_compaction(store: Store, owner: str, at: str) -> Any:
    return await openai(store, owner, at)._atomic_replace_items([HELLO])  # noqa: SLF001


TABLES = """
SELECT table_name FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
WHERE column_name = :column AND table_schema = 'public' AND table_type = 'BASE TABLE' ORDER BY table_name
"""

BEGINNINGS: dict[str, Call] = {
    "PersistenceSession.add_items": lambda store, owner, at: openai(store, owner, at).add_items([HELLO]),
    "PersistenceSessionStore.append": lambda store, owner, at: claude(store, owner).append(transcript(at), [ENTRY]),
    "PersistenceSessionStore.append of a subagent": lambda store, owner, at: claude(store, owner).append(
        transcript(at, subpath="a"), [ENTRY]
    ),
    "PersistenceSessionService.create_session": lambda store, owner, at: adk(store).create_session(
        **session_key(owner, at), state=dict(DELTA)
    ),
    "PersistenceSessionService.import_session": lambda store, owner, at: adk(store).import_session(
        session(owner, at, event())
    ),
    "PersistenceStore.aput": lambda store, owner, at: memory(store, owner).aput((APP, at), "k", {"n": owner}),
    "PersistenceStore.abatch": lambda store, owner, at: memory(store, owner).abatch([PutOp((APP, at), "l", {})]),
}
CALLS: dict[str, Call] = {
    "PersistenceSession.get_items": lambda store, owner, at: openai(store, owner, at).get_items(),
    "PersistenceSession.pop_item": lambda store, owner, at: openai(store, owner, at).pop_item(),
    "PersistenceSession.clear_session": lambda store, owner, at: openai(store, owner, at).clear_session(),
    "PersistenceSession of a compaction": compaction,
    "PersistenceSession of a whole compaction": whole_compaction,
    "PersistenceSessionStore.load": lambda store, owner, at: claude(store, owner).load(transcript(at)),
    "PersistenceSessionStore.list_sessions": lambda store, owner, _: claude(store, owner).list_sessions(APP),
    "PersistenceSessionStore.list_session_summaries": lambda store, owner, _: claude(
        store, owner
    ).list_session_summaries(APP),
    "PersistenceSessionStore.list_subkeys": lambda store, owner, at: claude(store, owner).list_subkeys(transcript(at)),
    "PersistenceSessionStore.delete": lambda store, owner, at: claude(store, owner).delete(transcript(at)),
    "PersistenceSessionStore.delete of a subagent": lambda store, owner, at: claude(store, owner).delete(
        transcript(at, subpath="a")
    ),
    "PersistenceSessionStore.thread_id": lambda store, owner, at: claude(store, owner).thread_id(transcript(at)),
    "PersistenceSessionService.get_session": lambda store, owner, at: adk(store).get_session(**session_key(owner, at)),
    "PersistenceSessionService.list_sessions": lambda store, owner, _: adk(store).list_sessions(
        app_name=APP, user_id=owner
    ),
    "PersistenceSessionService.get_user_state": lambda store, owner, _: adk(store).get_user_state(
        app_name=APP, user_id=owner
    ),
    "PersistenceSessionService.append_event": lambda store, owner, at: adk(store).append_event(
        session(owner, at), event()
    ),
    "PersistenceSessionService.delete_session": lambda store, owner, at: adk(store).delete_session(
        **session_key(owner, at)
    ),
    "PersistenceSessionService.thread_id": lambda store, owner, at: adk(store).thread_id(**session_key(owner, at)),
    "PersistenceStore.aget": lambda store, owner, at: memory(store, owner).aget((APP, at), "k"),
    "PersistenceStore.asearch": lambda store, owner, _: memory(store, owner).asearch((APP,)),
    "PersistenceStore.alist_namespaces": lambda store, owner, _: memory(store, owner).alist_namespaces(),
    "PersistenceStore.adelete": lambda store, owner, at: memory(store, owner).adelete((APP, at), "k"),
    "PersistenceStore.batch": lambda store, owner, at: asyncio.to_thread(memory(store, owner).get, (APP, at), "k"),
}
# What a framework does without a message of its own, on ids that it is given.
OF_NO_CONVERSATION = {"PersistenceSessionService.flush", "PersistenceStore.close"}


async def begin_all(store: Store, owner: str, at: str) -> None:
    """Begin a conversation in each framework."""
    for name, call in BEGINNINGS.items():
        if name != "PersistenceSessionService.create_session":  # import_session creates the same
            await call(store, owner, at)
    await adk(store).append_event(
        await adk(store).get_session(**session_key(owner, at)) or session(owner, at),
        Event(author="user", actions=EventActions(state_delta={f"app:{at}": 1})),
    )


async def told(call: Awaitable[Any], at: str) -> str:
    """What a caller is told, without the id that was asked for."""
    try:
        answer = repr(await call)
    except (PersistenceError, AlreadyExistsError, ValueError) as error:
        answer = f"{type(error).__name__}: {error}"
    return answer.replace(at, "<id>")


async def rows_of(store: Store, owners: list[str], *, of_others: bool = False) -> list[Any]:
    """All rows of owners in all tables; or how many rows all others have."""
    wanted = "count(*)" if of_others else "row_to_json(row)::text"
    is_wanted = "NOT" if of_others else ""
    conditions = {
        "user_id": "row.user_id = ANY(:owners)",
        "thread_id": "row.thread_id IN (SELECT thread_id FROM threads WHERE user_id = ANY(:owners))",
    }
    found = []
    for column, is_theirs in conditions.items():
        for (table,) in await run_sql(store, TABLES, column=column):
            statement = f"SELECT {wanted} FROM {table} AS row WHERE {is_wanted} ({is_theirs})"
            found.append(sorted(map(tuple, await run_sql(store, statement, owners=owners))))
    return found
