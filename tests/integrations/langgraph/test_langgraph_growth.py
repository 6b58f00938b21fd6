"""What a graph's checkpoints take on disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from graphs import HELLO, talker
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agent_persistence import Persistence, PersistenceSettings, migrate
from agent_persistence.integrations.langgraph import PersistenceSaver

STEPS = 500
SIZE = "SELECT pg_total_relation_size('graph_checkpoints') + pg_total_relation_size('graph_values')"


@pytest.mark.slow
async def test_500_steps_that_gain_a_kilobyte_each_take_less_than_twice_what_they_gain(
    make_database: Callable[[], Awaitable[str]],
) -> None:
    url = await make_database()
    settings = PersistenceSettings(_env_file=None, database_url=url)  # type: ignore[call-arg]  # pydantic-settings' own keyword
    await migrate.upgrade(settings)
    async with Persistence(settings) as persistence:
        graph = talker(STEPS).compile(checkpointer=PersistenceSaver(persistence, user_id="u-1"))
        config: Any = {
            "configurable": {"thread_id": "0198f0a5-7c5e-7d2a-9b1e-2f6a4d3c1b00"},
            "recursion_limit": STEPS + 9,
        }
        state = await graph.ainvoke(HELLO, config)
    payload = sum(len(JsonPlusSerializer().dumps_typed(message)[1]) for message in state["messages"])
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    await connection.execute("VACUUM")
    stored = await connection.fetchval(SIZE)
    await connection.close()

    assert payload > STEPS * 1024
    assert stored <= 2 * payload, stored / payload
