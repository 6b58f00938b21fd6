"""Sequences that are behind the rows, as logical replication and data-only restores leave them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy import event
from sqlalchemy.util import await_only

from agent_persistence import migrate
from agent_persistence.errors import SequenceBehindError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

NUMBERED = [
    "states.state_id",
    "messages.seq",
    "graph_values.value_no",
    "state_streams.stream_id",
    "cache_outbox.outbox_id",
]
TEXT = "x" * 20_000


@pytest_asyncio.fixture
async def settings(make_database: Callable[[], Awaitable[str]]) -> PersistenceSettings:
    """A database with an outbox that nobody sweeps, since no cache is configured."""
    settings = PersistenceSettings(_env_file=None, database_url=await make_database())  # type: ignore[call-arg]
    await migrate.upgrade(settings)
    return settings


@pytest_asyncio.fixture
async def connection(settings: PersistenceSettings) -> AsyncIterator[asyncpg.Connection]:
    assert settings.database_url is not None
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    yield connection
    await connection.close()


async def restart(connection: asyncpg.Connection, column: str, at: int = 1) -> None:
    table, _, number = column.partition(".")
    await connection.execute(f"ALTER TABLE {table} ALTER COLUMN {number} RESTART WITH {at}")


async def put_many(store: Persistence[str, str], thread_id: str) -> None:
    async with store.begin(user_id="ann") as uow:
        await uow.states.put(thread_id, "new")


async def put_stream(store: Persistence[str, str], thread_id: str) -> None:
    async def source() -> AsyncIterator[bytes]:
        yield b"new"

    await store.states.put_stream(thread_id, source(), user_id="ann")


async def copy_messages(store: Persistence[str, str], thread_id: str) -> None:
    await store.messages.append_many(thread_id, [{"role": "user", "content": "new"}] * 300, user_id="ann")


async def append_in_unit_of_work(store: Persistence[str, str], thread_id: str) -> None:
    async with store.begin(user_id="ann") as uow:
        await uow.messages.append(thread_id, {"role": "user", "content": "new"})


WRITES: dict[str, Callable[[Persistence[str, str], str], Awaitable[Any]]] = {
    "put": lambda store, thread_id: store.states.put(thread_id, "new", user_id="ann"),
    "put of a change": lambda store, thread_id: store.states.put(thread_id, {"a": TEXT, "b": 1}, user_id="ann"),
    "put in a unit of work": put_many,
    "put_stream": put_stream,
    "append": lambda store, thread_id: store.messages.append(
        thread_id, {"role": "user", "content": "new"}, user_id="ann"
    ),
    "append in a unit of work": append_in_unit_of_work,
    "append_many": lambda store, thread_id: store.messages.append_many(
        thread_id, [{"role": "user", "content": "new"}, {"role": "user", "content": "newer"}], user_id="ann"
    ),
    "append_many by COPY": copy_messages,
}


@pytest.mark.parametrize("at", [1, 2], ids=["at a given number", "between given numbers"])
async def test_a_write_that_would_not_be_the_latest_fails_and_leaves_nothing(
    settings: PersistenceSettings, connection: asyncpg.Connection, at: int
) -> None:
    async with Persistence[str, str](settings) as store:
        thread_id = (await store.threads.create(user_id="ann")).thread_id
        other = (await store.threads.create(user_id="ann")).thread_id
        for state in (1, 2, {"a": TEXT}):
            await store.states.put(thread_id, state, user_id="ann")
            await store.messages.append(thread_id, {"role": "user", "content": "old"}, user_id="ann")
        await connection.execute("DELETE FROM states WHERE state_id = 2; DELETE FROM messages WHERE seq = 2")
        before = await counts(connection)

        for write in WRITES.values():
            # Each draws numbers, whatever becomes of it.
            await restart(connection, "states.state_id", at)
            await restart(connection, "messages.seq", at)
            with pytest.raises(SequenceBehindError, match="agent-persistence doctor") as refusal:
                await write(store, thread_id)
            assert refusal.value.committed == "no"
        after = await counts(connection)
        # The numbers of a thread without rows are fine, whatever those of others are.
        saved = await store.states.put(other, "new", user_id="ann")
        latest = await store.states.get(other, user_id="ann")

    assert after == before
    assert latest == saved


async def counts(connection: asyncpg.Connection) -> Any:
    return await connection.fetchrow(
        "SELECT (SELECT count(*) FROM states), (SELECT count(*) FROM messages), (SELECT count(*) FROM state_streams)"
    )


@pytest.mark.parametrize("column", NUMBERED)
async def test_a_sequence_that_is_behind_is_refused_at_start_until_its_command_was_run(
    settings: PersistenceSettings, connection: asyncpg.Connection, column: str
) -> None:
    await connection.execute(
        """
        INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann');
        INSERT INTO states (thread_id, state_data) VALUES ('t', '1'), ('t', '2');
        INSERT INTO messages (thread_id, message_id, role, content)
        VALUES ('t', 'a', 'user', ''), ('t', 'b', 'user', '');
        INSERT INTO graph_values (thread_id, checkpoint_ns, channel, cells, content)
        VALUES ('t', '', 'a', '', ''), ('t', '', 'b', '', '');
        INSERT INTO state_streams (thread_id) VALUES ('t'), ('t');
        INSERT INTO cache_outbox (thread_id, user_id) VALUES ('t', 'ann'), ('t', 'ann')
        """
    )
    await restart(connection, column)

    with pytest.raises(SequenceBehindError) as refusal:
        async with Persistence[str, str](settings):
            pass
    await connection.execute(refusal.value.command)
    async with Persistence[str, str](settings):
        pass

    assert refusal.value.columns == (column,)
    assert "setval" in refusal.value.command


@pytest.mark.parametrize("found_at", ["anywhere", "the end"])
async def test_a_large_table_is_sampled(
    settings: PersistenceSettings, connection: asyncpg.Connection, found_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_persistence.migrate.catalog._SAMPLED_PAGES", 2)
    await connection.execute(
        """
        INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann');
        INSERT INTO messages (thread_id, message_id, role, content)
        SELECT 't', number, 'user', repeat('x', 500) FROM generate_series(1, 1000) AS number
        """
    )
    await restart(connection, "messages.seq", 1 if found_at == "anywhere" else 999)

    with pytest.raises(SequenceBehindError):
        async with Persistence[str, str](settings):
            pass


async def test_rows_that_are_written_during_the_check_are_not_ahead_of_their_sequence(
    settings: PersistenceSettings, connection: asyncpg.Connection
) -> None:
    await connection.execute("INSERT INTO threads (thread_id, user_id) VALUES ('t', 'ann')")
    append = "INSERT INTO messages (thread_id, message_id, role, content) VALUES ('t', $1, 'user', '')"
    await connection.execute(append, "first")
    store, asked = Persistence[str, str](settings), []

    def write_after_the_sequences_were_read(*arguments: Any) -> None:
        statement = arguments[2]
        if "pg_sequence_last_value" in statement:
            asked.append(statement)
            await_only(connection.execute(append, f"during {len(asked)}"))

    event.listen(store.engine.sync_engine, "after_cursor_execute", write_after_the_sequences_were_read)
    async with store:
        pass

    assert len(asked) == 2
