"""Processes of this version work on while the database is brought to its revision.

Before it, they do what the older revision has columns for: threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from alembic.script import ScriptDirectory

from agent_persistence import migrate
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

USER = "ada"
WRITERS = 4
ROUNDS = 10
HELLO = {"role": "user", "content": "hello"}

Store = Persistence[str, str]


def older_revisions() -> list[str]:
    """Every revision before the newest."""
    settings = PersistenceSettings(_env_file=None, database_url="postgresql://nobody@nowhere/nothing")
    history = ScriptDirectory.from_config(migrate.alembic_config(settings))
    return [script.revision for script in history.walk_revisions()][1:]


@pytest_asyncio.fixture(params=older_revisions())
async def store(
    request: pytest.FixtureRequest, make_database: Callable[[], Awaitable[str]], servers: Any
) -> AsyncIterator[Store]:
    """A store on a database of an older revision; it was opened when nobody looked."""
    url = await make_database()
    settings = PersistenceSettings(
        _env_file=None, database_url=url, redis_url=servers.redis_url, cache_namespace=url[-20:], cache_timeout_ms=2000,
        cache_budget_ms=4000,
    )  # fmt: skip
    await migrate.upgrade(settings, request.param)
    store = Store(settings)
    yield store
    await store.aclose()


@pytest.mark.slow
async def test_an_upgrade_from_every_older_revision_costs_no_caller_anything(store: Store) -> None:
    rounds, upgraded = 0, asyncio.Event()
    warm = asyncio.Event()

    async def work() -> None:
        nonlocal rounds
        after_it = 0
        while after_it < ROUNDS:
            is_upgraded = upgraded.is_set()
            await use_everything(store, is_upgraded=is_upgraded)
            rounds += 1
            after_it += is_upgraded
            if rounds >= WRITERS * ROUNDS:
                warm.set()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:  # an error to one of the callers fails the test
        for _ in range(WRITERS):
            group.create_task(work())
        await warm.wait()
        await migrate.upgrade(store.settings)
        upgraded.set()

    await store.check()
    assert len(await store.threads.page(user_id=USER, limit=1000)) == rounds


async def use_everything(store: Store, *, is_upgraded: bool) -> None:
    thread = await store.threads.create(user_id=USER)
    place = thread.thread_id
    if is_upgraded:
        made = await store.messages.append(place, HELLO, user_id=USER)
        assert (await store.messages.page(place, user_id=USER)).items == (made,)
        state = await store.states.put(place, {"step": 1}, user_id=USER)
        assert await store.states.get(place, user_id=USER) == state
        async with store.begin(user_id=USER) as uow:
            second = await uow.states.put(place, {"step": 2}, expected_version=state.version)
        assert await store.states.get(place, user_id=USER) == second
        assert await store.messages.delete(place, made.message_id, user_id=USER)
    changed = await store.threads.update(place, name="used", user_id=USER)
    assert await store.threads.get(place, user_id=USER) == changed
