"""Every call, and every message on its way: the server falls silent, the connection closes, or the backend ends there.

The call answers in time, says truly whether it was committed, leaves no connection behind, and the next call works.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hardening.every_message import (
    HELLO,
    KINDS,
    MOST_REQUESTS,
    USER,
    Call,
    Store,
    a_run,
    check,
    latest,
    one_unit_of_work,
    set_trap,
)
from hardening.hardening_servers import migrated_settings
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from torture.proxy import Proxy
from torture.servers import PostgreSQL

from agent_persistence.database.driver_errors import DRIVER_ERRORS
from agent_persistence.errors import CommitUnknownError
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import ItemKey, NewItem, NewMessage, NewThread

MANY = [{"role": "user", "content": "x" * 2_000}] * 300


async def stream(store: Store, thread_id: str) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"a" * 100
        yield b"b" * 100

    await store.states.put_stream(thread_id, pieces(), user_id=USER)


async def unit_of_work(store: Store, thread_id: str) -> None:
    async with store.begin(user_id=USER) as uow:
        await uow.states.put(thread_id, {"step": 1})
        await uow.messages.append(thread_id, HELLO)


async def both(uow: Any, thread_id: str) -> None:
    await uow.states.put(thread_id, {"step": 1})
    await uow.messages.append(thread_id, HELLO)


async def tool_result(store: Store, thread_id: str) -> None:
    await store.tool_results.record(thread_id, str(time.monotonic_ns()), {"ok": True}, user_id=USER)


async def in_a_session_of_the_host(store: Store, thread_id: str) -> None:
    async with AsyncSession(store.engine) as session:
        await both(store.bind(session, user_id=USER), thread_id)
        try:
            async with asyncio.timeout(store.settings.reply_seconds):  # the host's own limit of what it awaits
                await session.commit()
        except DRIVER_ERRORS as error:
            raise CommitUnknownError("the host's COMMIT failed") from error


def item_key(thread_id: str) -> ItemKey:
    return ItemKey(("items", thread_id), "k")


def an_item(thread_id: str) -> NewItem:
    return NewItem(namespace=("items", thread_id), key=f"k{time.monotonic_ns()}", value={"n": 2})


async def with_an_item(store: Store, thread_id: str) -> None:
    """An item whose time to live a read may grant again: a tenth of it has passed."""
    namespace, key = item_key(thread_id)

    async def put(uow: UnitOfWork[Any, Any]) -> None:
        await uow.items.put_many([NewItem(namespace=namespace, key=key, value={}, ttl=3600)])
        await uow.session.execute(text("UPDATE items SET expires_at = expires_at - interval '20 minutes'"))

    await store.run(put, user_id=USER)


async def with_a_message(store: Store, thread_id: str) -> None:
    await store.messages.append(thread_id, NewMessage(message=HELLO, message_id=f"{thread_id}-m"), user_id=USER)


CHANGED = {**HELLO, "content": "changed"}
CALLS = {
    "states.put": Call(lambda store, at: store.states.put(at, {"step": 1}, user_id=USER), "states", 1),
    "states.put expected": Call(
        lambda store, at: store.states.put(at, {"step": 1}, user_id=USER, expected_version=latest[at]), "states", 1
    ),
    "states.put_stream": Call(stream, "states", 1),
    "states.get": Call(lambda store, at: store.states.get(at, user_id=USER)),
    "states.page": Call(lambda store, at: store.states.page(at, user_id=USER)),
    "messages.append": Call(lambda store, at: store.messages.append(at, HELLO, user_id=USER), "messages", 1),
    "messages.append with an id": Call(
        lambda store, at: store.messages.append(at, NewMessage(message=HELLO, message_id="m"), user_id=USER),
        "messages",
        1,
    ),
    "messages.append_many by COPY": Call(
        lambda store, at: store.messages.append_many(at, MANY, user_id=USER), "messages", len(MANY)
    ),
    "messages.page": Call(lambda store, at: store.messages.page(at, user_id=USER)),
    "threads.create": Call(lambda store, _: store.threads.create(user_id=USER), "threads", 1),
    "threads.create_many": Call(
        lambda store, _: store.threads.create_many([NewThread(messages=[HELLO], states=[1])] * 2, user_id=USER),
        "threads",
        2,
    ),
    "threads.update": Call(lambda store, at: store.threads.update(at, name="new", user_id=USER)),
    "threads.delete": Call(lambda store, at: store.threads.delete(at, user_id=USER), "threads", -1),
    "entities.get_thread": Call(lambda store, at: store.entities.get_thread(at, user_id=USER)),
    "tool_results.record": Call(tool_result, "tool_results", 1),
    "begin": Call(unit_of_work, "messages", 1, one_unit_of_work),
    "run": Call(lambda store, at: store.run(lambda uow: both(uow, at), user_id=USER), "messages", 1, a_run),
    "bind": Call(in_a_session_of_the_host, "messages", 1, one_unit_of_work),
    "states.get_version": Call(lambda store, at: store.states.get_version(at, latest[at], user_id=USER)),
    "states.clear": Call(lambda store, at: store.states.clear(at, user_id=USER), "states", -1),
    "states.touch": Call(lambda store, at: store.states.touch(at, user_id=USER)),
    "states.prune": Call(lambda store, at: store.states.prune(at, keep_last=1, user_id=USER)),
    "messages.get": Call(lambda store, at: store.messages.get(at, "m", user_id=USER)),
    "messages.update": Call(
        lambda store, at: store.messages.update(at, f"{at}-m", message=CHANGED, user_id=USER),
        prepare=with_a_message,
    ),
    "messages.delete": Call(
        lambda store, at: store.messages.delete(at, f"{at}-m", user_id=USER), "messages", -1, prepare=with_a_message
    ),
    "messages.pop": Call(
        lambda store, at: store.messages.pop(at, user_id=USER), "messages", -1, prepare=with_a_message
    ),
    "threads.page": Call(lambda store, _: store.threads.page(user_id=USER)),
    "threads.archive": Call(lambda store, at: store.threads.archive(at, user_id=USER)),
    "entities.get_latest_state": Call(lambda store, at: store.entities.get_latest_state(at, user_id=USER)),
    "entities.get_last_messages": Call(lambda store, at: store.entities.get_last_messages(at, user_id=USER)),
    "tool_results.get": Call(lambda store, at: store.tool_results.get(at, "call", user_id=USER)),
    "items.put_many": Call(lambda store, at: store.items.put_many([an_item(at)], user_id=USER), "items", 1),
    "items.get_many": Call(lambda store, at: store.items.get_many([item_key(at)], user_id=USER)),
    "items.get_many with refresh": Call(
        lambda store, at: store.items.get_many([item_key(at)], user_id=USER, refresh=True), prepare=with_an_item
    ),
    "items.search": Call(lambda store, _: store.items.search(("items",), user_id=USER)),
    "items.search with a filter": Call(lambda store, _: store.items.search(filter={"n": {"$gt": 1}}, user_id=USER)),
    "items.namespaces": Call(lambda store, _: store.items.namespaces(user_id=USER)),
    "items.delete_many": Call(
        lambda store, at: store.items.delete_many([item_key(at)], user_id=USER), "items", -1, prepare=with_an_item
    ),
    "items.clear": Call(
        lambda store, at: store.items.clear(("items", at), user_id=USER), "items", -1, prepare=with_an_item
    ),
    "check": Call(lambda store, _: store.check()),
    "purge": Call(lambda store, _: store.purge(keep_last=1)),
    "health": Call(lambda store, _: store.health()),
}


ON_THE_ENGINE_OF_A_HOST = [
    "states.put",
    "states.put_stream",
    "states.get",
    "messages.append_many by COPY",
    "entities.get_thread",
    "begin",
    "run",
    "bind",
    "check",
    "health",
    "purge",
]
CLOSING_SECONDS = 2.0
"""How long SQLAlchemy waits for the server to take leave of a statement that was given up."""


@pytest.mark.parametrize("name", ["states.put", "messages.append_many by COPY", "threads.create"])
async def test_a_call_ends_truly_and_in_time_when_its_connection_closes_at_any_message(
    name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    await check("close", CALLS[name], limited, messages, postgresql)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_ends_truly_and_in_time_whatever_happens_at_any_message(
    kind: str, name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    await check(kind, CALLS[name], limited, messages, postgresql)


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_THE_ENGINE_OF_A_HOST)
@pytest.mark.parametrize("limited", ["host"], indirect=True)
@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_holds_on_an_engine_of_the_host_which_limits_nothing(
    kind: str, name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    await check(kind, CALLS[name], limited, messages, postgresql, closing_seconds=CLOSING_SECONDS)


# --- Redis ---


REDIS_CALLS = {
    "states.put": lambda store, at: store.states.put(at, {"step": 1}, user_id=USER),
    "states.put expected": lambda store, at: store.states.put(
        at, {"step": 1}, user_id=USER, expected_version=latest[at]
    ),
    "states.get": lambda store, at: store.states.get(at, user_id=USER),
    "states.clear": lambda store, at: store.states.clear(at, user_id=USER),
    "threads.delete": lambda store, at: store.threads.delete(at, user_id=USER),
    "begin": unit_of_work,
    "health": lambda store, _: store.health(),
}
PATIENCE = 2.0
"""Seconds: the budget of a request, twice, and what a busy machine takes beside it."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "states.get" else pytest.mark.slow) for name in REDIS_CALLS]
)
@pytest.mark.parametrize("kind", ["silence", "close"])
async def test_no_message_to_redis_can_fail_a_call_or_hold_it_up(
    kind: str, name: str, messages_to_redis: Proxy, postgresql: PostgreSQL
) -> None:
    cache = {"cache_timeout_ms": 50, "cache_budget_ms": 100, "cache_sweep_interval": 3_600}
    settings = await migrated_settings(postgresql, redis_url=f"redis://127.0.0.1:{messages_to_redis.port}", **cache)
    for request in range(1, MOST_REQUESTS):
        async with Store(settings) as store:
            thread_id = (await store.threads.create(user_id=USER)).thread_id
            for step in range(2):  # connections to Redis are open, and the state is cached
                latest[thread_id] = (await store.states.put(thread_id, {"step": step}, user_id=USER)).version
                await store.states.get(thread_id, user_id=USER)
            await set_trap(kind, messages_to_redis, postgresql, request)
            started = time.monotonic()

            await REDIS_CALLS[name](store, thread_id)

            took, came_by = time.monotonic() - started, messages_to_redis.requests >= request
            messages_to_redis.release()
            assert took < PATIENCE, f"{name}, {kind} at request {request}: {took:.1f} s"
            cached = await store.states.get(thread_id, user_id=USER)
            assert cached == await store.states.get(thread_id, user_id=USER, fresh=True)
        if not came_by:
            return
    raise AssertionError(f"{name} sends more than {MOST_REQUESTS} requests to Redis")
