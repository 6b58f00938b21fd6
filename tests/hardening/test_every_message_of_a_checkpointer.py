"""Every call of the checkpointers, and every message on its way to their servers: silence, or a closed connection.

The clients are those of an application that has set no time limits.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aioboto3
import pytest
import pytest_asyncio
from dynamodb_server import REGION, dynamodb_server
from hardening.every_message import KINDS, MOST_REQUESTS, SLACK, USER, Call, Store, check, set_trap
from redis.asyncio import Redis
from torture.proxy import Proxy, is_anything
from torture.servers import PostgreSQL

from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from agent_persistence.backends.postgresql import PostgreSQLCheckpointer
from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.checkpointer import Checkpointer
from agent_persistence.concurrency import retries
from agent_persistence.errors import PersistenceError

REPLY_SECONDS, RETRY_SECONDS = 0.4, 0.3
REQUESTS_IN_A_ROW = 2
"""How many requests of one call may each just be answered in time before the server falls silent."""
CALLS: dict[str, Callable[[Checkpointer, str], Awaitable[Any]]] = {
    "save_state": lambda checkpointer, at: checkpointer.save_state(at, {"step": 1}),
    "load_state": lambda checkpointer, at: checkpointer.load_state(at),
    "list_threads": lambda checkpointer, _: checkpointer.list_threads(limit=5),
    "state_history": lambda checkpointer, at: checkpointer.state_history(at),
    "delete_thread": lambda checkpointer, at: checkpointer.delete_thread(at),
}
ROWS = {"save_state": ("states", 1), "delete_thread": ("threads", -1)}


@pytest_asyncio.fixture
async def behind_a_proxy(
    request: pytest.FixtureRequest, messages_to_redis: Proxy, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Checkpointer, Proxy]]:
    """A checkpointer of a backend, and the messages to its server."""
    monkeypatch.setattr(retries, "REPLY_SECONDS", REPLY_SECONDS)
    options: dict[str, Any] = {"user_id": USER, "retry_seconds": RETRY_SECONDS}
    async with AsyncExitStack() as stack:
        if request.param == "redis":
            redis = await stack.enter_async_context(Redis.from_url(f"redis://127.0.0.1:{messages_to_redis.port}"))
            yield (
                RedisCheckpointer(client=redis, namespace=f"test-{uuid.uuid4().hex[:8]}", **options),
                messages_to_redis,
            )
            return
        for name, value in (("AWS_ACCESS_KEY_ID", "any"), ("AWS_SECRET_ACCESS_KEY", "any")):
            monkeypatch.setenv(name, value)
        address = stack.enter_context(dynamodb_server())
        proxy = Proxy(int(address.rpartition(":")[2]), is_anything)
        await proxy.listen()
        stack.callback(proxy.refuse)
        stack.callback(proxy.release)
        session: Any = aioboto3.Session(region_name=REGION)
        client = await stack.enter_async_context(
            session.client("dynamodb", endpoint_url=f"http://127.0.0.1:{proxy.port}")
        )
        made = DynamoDBCheckpointer(client=client, **options)
        monkeypatch.setattr(retries, "REPLY_SECONDS", 10.0)
        await made.create_table()
        monkeypatch.setattr(retries, "REPLY_SECONDS", REPLY_SECONDS)
        yield made, proxy


@pytest.mark.parametrize("behind_a_proxy", ["redis", pytest.param("dynamodb", marks=pytest.mark.slow)], indirect=True)
@pytest.mark.parametrize("kind", ["silence", "close"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "save_state" else pytest.mark.slow) for name in CALLS]
)
async def test_every_call_of_a_checkpointer_ends_truly_and_in_time(
    name: str,
    kind: str,
    behind_a_proxy: tuple[Checkpointer, Proxy],
    postgresql: PostgreSQL,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpointer, proxy = behind_a_proxy
    for request in range(1, MOST_REQUESTS):
        thread_id = f"thread-{request}"
        with monkeypatch.context() as patience:
            patience.setattr(retries, "REPLY_SECONDS", 10.0)
            await checkpointer.save_state(thread_id, {"step": 0})
        await set_trap(kind, proxy, postgresql, request)
        started, error = time.monotonic(), None
        try:
            await CALLS[name](checkpointer, thread_id)
        except PersistenceError as raised:
            error = raised
        took, came_by = time.monotonic() - started, proxy.requests >= request
        proxy.release()
        at = f"{kind} at request {request}: {error!r}"
        assert took < RETRY_SECONDS + REQUESTS_IN_A_ROW * REPLY_SECONDS + SLACK, f"{at}, after {took:.1f} s"
        found = await checkpointer.load_state(thread_id)
        after = {"save_state": {"step": 1}, "delete_thread": None}.get(name, {"step": 0})
        possible = {"yes": [after], "no": [{"step": 0}], "unknown": [after, {"step": 0}]}
        assert (None if found is None else found.state) in possible["yes" if error is None else error.committed], at
        if not came_by:
            return
    raise AssertionError(f"it sends more than {MOST_REQUESTS} requests: none went undisturbed")


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_of_the_checkpointer_for_postgresql_ends_truly_and_in_time(
    kind: str, name: str, limited: Store, messages: Proxy, postgresql: PostgreSQL
) -> None:
    async def make(store: Store, thread_id: str) -> None:
        await CALLS[name](PostgreSQLCheckpointer(persistence=store, user_id=USER), thread_id)

    await check(kind, Call(make, *ROWS.get(name, (None, 0))), limited, messages, postgresql)
