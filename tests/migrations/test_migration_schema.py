"""What the history builds: the plans of the four reads that matter, and what is easily lost from a schema."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from agent_persistence import migrate
from migration_testing import Database

_FILL = """
INSERT INTO threads (thread_id, user_id, updated_at)
SELECT 't' || n, CASE WHEN n <= 50000 THEN 'busy' ELSE 'idle' END, now() - n * interval '1 second'
FROM generate_series(1, 51000) AS n;
INSERT INTO messages (thread_id, message_id, role, content)
SELECT thread_id, 'm' || n, 'user', 'hello' FROM (
  SELECT 't1' AS thread_id, n FROM generate_series(1, 20000) AS n
  UNION ALL
  SELECT 't' || n, n FROM generate_series(2, 20000) AS n
) AS mixed;
INSERT INTO states (thread_id, state_data)
SELECT CASE WHEN n % 2 = 0 THEN 't1' ELSE 't' || n END, '{}' FROM generate_series(1, 10000) AS n;
ANALYZE;
"""

_READS = {
    "last 20 of 20 000 messages": (
        "SELECT content FROM messages WHERE thread_id = $1 ORDER BY seq DESC LIMIT 20",
        ["text"],
        "'t1'",
        30,
    ),
    "a page 15 000 messages back": (
        "SELECT content FROM messages WHERE thread_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT 20",
        ["text", "bigint"],
        "'t1', 5000",
        30,
    ),
    "latest of 5 000 states": (
        "SELECT state_data FROM states WHERE thread_id = $1 ORDER BY state_id DESC LIMIT 1",
        ["text"],
        "'t1'",
        8,
    ),
    "20 newest of a user's 50 000 threads": (
        "SELECT thread_name FROM threads WHERE user_id = $1 AND archived_at IS NULL "
        "ORDER BY updated_at DESC, thread_id DESC LIMIT 20",
        ["text"],
        "'busy'",
        40,
    ),
}


@pytest_asyncio.fixture
async def filled(database: Database) -> AsyncIterator[asyncpg.Connection]:
    await migrate.upgrade(database.settings())
    async with database.connected() as connection:
        await connection.execute(_FILL)
        yield connection


async def test_every_list_is_read_from_an_index(filled: asyncpg.Connection) -> None:
    for mode in ("force_custom_plan", "force_generic_plan"):
        await filled.execute(f"SET plan_cache_mode = {mode}")
        for name, (query, types, arguments, most_buffers) in _READS.items():
            await filled.execute(f"PREPARE the_read ({', '.join(types)}) AS {query}")
            await filled.execute(f"EXECUTE the_read ({arguments})")  # the catalogs are read once; that is not counted
            plan = await _plan(filled, f"EXECUTE the_read ({arguments})")
            await filled.execute("DEALLOCATE the_read")

            buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
            assert buffers <= most_buffers, (name, mode, plan)
            assert "Sort" not in {node["Node Type"] for node in _nodes(plan)}, (name, mode, plan)


async def _plan(connection: asyncpg.Connection, statement: str) -> dict[str, Any]:
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
    return dict(json.loads(text)[0]["Plan"])


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from _nodes(child)


async def test_string_ids_are_compared_as_bytes(database: Database) -> None:
    await migrate.upgrade(database.settings())

    collations = await database.values(
        """
        SELECT DISTINCT collname::text
        FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        JOIN pg_collation ON pg_collation.oid = attcollation
        WHERE relname IN ('threads', 'states', 'messages')
          AND attname IN ('thread_id', 'message_id', 'user_id')
        """
    )

    assert collations == ["C"]


async def test_large_values_are_compressed_with_lz4_where_the_server_has_it(database: Database) -> None:
    await assert_compression(database)


async def assert_compression(database: Database) -> None:
    has_lz4 = await database.value(
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )

    await migrate.upgrade(database.settings())

    compressed = await database.values(
        """
        SELECT relname || '.' || attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE attcompression = 'l' ORDER BY 1
        """
    )
    wanted = ["messages.content", "messages.extra", "messages.tool_calls", "states.patch", "states.state_data"]
    assert compressed == (wanted if has_lz4 else [])


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TYPE message_role ADD VALUE 'bot'",
        "DROP INDEX ix_threads_user_id_updated_at;"
        "CREATE INDEX ix_threads_user_id_updated_at ON threads (user_id, updated_at, thread_id)",
    ],
)
async def test_the_comparison_of_dumps_sees_what_alembic_check_does_not(database: Database, change: str) -> None:
    await migrate.upgrade(database.settings())
    before = await database.dump("public")

    await database.execute(*change.split(";"))

    assert await database.dump("public") != before


async def test_a_downgrade_makes_whole_what_was_kept_as_changes(database: Database) -> None:
    settings = database.settings()
    await migrate.upgrade(settings)
    await database.execute(
        "INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')",
        """INSERT INTO states (thread_id, state_id, state_data) VALUES ('t', 1, '{"a": [1, 2], "b": 3}')""",
        """INSERT INTO states (thread_id, state_id, base_id, patch) VALUES
           ('t', 2, 1, '{"a": {"keep": 1, "add": [4]}}'), ('t', 3, 2, '{"b": {}, "c": {"set": null}}')""",
    )

    await migrate.downgrade(settings, "ap0002")

    async with database.connected() as connection:
        states = await connection.fetch("SELECT state_data::text FROM states ORDER BY state_id")
    assert [row[0] for row in states] == ['{"a": [1, 2], "b": 3}', '{"a": [1, 4], "b": 3}', '{"a": [1, 4], "c": null}']


async def test_a_downgrade_leaves_no_aside_that_would_read_as_a_message(database: Database) -> None:
    settings = database.settings()
    await migrate.upgrade(settings)
    await database.execute(
        "INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')",
        """INSERT INTO messages (thread_id, message_id, role, content, aside) VALUES
           ('t', 'm1', 'user', 'hello', NULL), ('t', 'm2', 'assistant', 'searched', 'openai')""",
    )

    await migrate.downgrade(settings, "ap0010")

    async with database.connected() as connection:
        assert [row[0] for row in await connection.fetch("SELECT message_id FROM messages")] == ["m1"]
