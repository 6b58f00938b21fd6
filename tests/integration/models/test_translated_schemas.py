"""An engine of the host's that translates schemas: every statement goes where its map says."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import create_async_engine

from agent_persistence import migrate
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewThread
from agent_persistence.settings import PersistenceSettings

HELLO = {"role": "user", "content": "hello"}


async def test_threads_messages_and_states_live_in_the_schema_of_the_map(make_database: Any) -> None:
    url = await make_database()
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=url, db_schema="tenant"))
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    translating = engine.execution_options(schema_translate_map={None: "tenant"})
    store = Persistence[str, str](PersistenceSettings(_env_file=None, database_url=url), engine=translating)
    states = [{"step": step, "text": 9000 * "x"} for step in range(4)]

    [thread_id] = await store.threads.create_many([NewThread(messages=[HELLO], states=[0])], user_id="ann")
    await store.messages.append(thread_id, HELLO, user_id="ann")
    await store.messages.append_many(thread_id, [HELLO, HELLO], user_id="ann")
    for state in states:
        await store.states.put(thread_id, state, user_id="ann")
    latest = await store.states.require(thread_id, user_id="ann")
    deleted = await store.states.prune(thread_id, user_id="ann", keep_last=2)

    assert len(await store.messages.page(thread_id, user_id="ann")) == 4
    assert latest.data == states[-1]
    assert deleted == 3
    assert [state.data for state in await store.states.page(thread_id, user_id="ann")] == states[:1:-1]
    await store.aclose()
    await engine.dispose()
