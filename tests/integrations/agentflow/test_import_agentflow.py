"""The tables of Agentflow's PgCheckpointer are read back the same after they were copied."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from frameworks import Framework, framework, need_frameworks

from agent_persistence import migrate
from agent_persistence.addresses.database_url import DatabaseUrl
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import InvalidInputError
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER
from agent_persistence.settings import PersistenceSettings
from agent_persistence.transfer.agentflow import CopyOutcome, copy_tables
from agent_persistence.transfer.conversations import threads_by_age

need_frameworks()

SCHEMA = "agent"
THREADS = 3
RESULT = {"__kind__": "raw", "value": 1}


@pytest_asyncio.fixture(params=["string"])
async def old(
    request: pytest.FixtureRequest, make_database: Callable[[], Awaitable[str]], servers: EmbeddedServers
) -> AsyncIterator[tuple[Any, str, str]]:
    """A PgCheckpointer; the address of its database, which has this package's tables in a schema; its type of ids."""
    from agentflow.storage.checkpointer import PgCheckpointer  # noqa: PLC0415 - where it is installed

    address = await make_database()
    settings = {"database_url": address, "db_schema": SCHEMA, "id_type": request.param}
    await migrate.upgrade(PersistenceSettings(_env_file=None, **settings))
    checkpointer = PgCheckpointer(address, redis_url=servers.redis_url, id_type=request.param)
    await checkpointer.asetup()
    yield checkpointer, address, request.param
    await checkpointer.arelease()


def thread_ids(kind: str) -> list[Any]:
    return [f"thread-{number}" if kind == "string" else number for number in range(1, THREADS + 1)]


async def fill(checkpointer: Any, kind: str) -> None:
    words = framework("agentflow")
    m = words.messages
    for number, thread_id in enumerate(thread_ids(kind)):
        config = {"thread_id": thread_id, "user_id": f"user-{number % 2}"}
        said = [words.text("hello"), words.text("hi", "assistant")]
        answer = m.ToolResultBlock(call_id="c", output={"deg": 1.5}, status="completed")
        usages = m.TokenUsages(completion_tokens=1, prompt_tokens=2, total_tokens=3)
        said += [words.message(role="tool", content=[answer], metadata={"a": 1}, usages=usages)]
        if kind != "string":
            for index, one in enumerate(said):
                one.message_id = number * 10 + index + 1
        named = {"thread_name": f"Thread {number}", "metadata": {"n": number}}
        info = words.thread_info(thread_id=thread_id, run_id="r", **named)
        await checkpointer.aput_thread(config, info)
        for step in range(3):
            await checkpointer.aput_state(config, words.state(context=said[:step], context_summary=str(step)))
        for one in said:
            await checkpointer.aput_messages(config, [one])
        await checkpointer.aput_tool_result(config, "call", RESULT)


async def copy(address: str, kind: str) -> Counter[CopyOutcome]:
    """Copy the tables, and count the threads by their outcome."""
    settings = {"database_url": address, "db_schema": SCHEMA, "id_type": kind}
    source = DatabaseUrl.parse(address, "URL")
    async with Persistence[Any, Any](PersistenceSettings(_env_file=None, **settings)) as persistence:
        return Counter([thread.outcome async for thread in copy_tables(source, persistence, schema="public")])


async def copy_by_command(address: str, *options: str) -> subprocess.CompletedProcess[str]:
    settings = {"PERSISTENCE_DATABASE_URL": address, "PERSISTENCE_DB_SCHEMA": SCHEMA}
    command = [sys.executable, "-m", "agent_persistence.cli", "import-agentflow", address, *options]
    return await asyncio.to_thread(
        subprocess.run, command, env=os.environ | settings, capture_output=True, text=True, check=False
    )


async def contents(checkpointer: Any, kind: str) -> list[Any]:
    found: list[Any] = []
    for number, thread_id in enumerate(thread_ids(kind)):
        config = {"thread_id": thread_id, "user_id": f"user-{number % 2}"}
        thread = await checkpointer.aget_thread(dict(config))
        found += [
            thread.thread_name,
            {**thread.metadata, "run_id": thread.run_id},  # theirs is among the metadata
            await checkpointer.aget_state(dict(config)),
            await checkpointer.alist_messages(dict(config)),
            await checkpointer.aget_tool_result(dict(config), "call"),
        ]
    return found


def ours(words: Framework, address: str, kind: str) -> Any:
    return words.ours(address, schema=SCHEMA, id_type=kind)


@pytest.mark.parametrize("old", ["string", "bigint"], indirect=True)
async def test_everything_is_read_back_the_same(old: tuple[Any, str, str]) -> None:
    theirs, address, kind = old
    await fill(theirs, kind)

    assert await copy(address, kind) == {CopyOutcome.COPIED: 3}

    checkpointer = ours(framework("agentflow"), address, kind)
    assert await contents(checkpointer, kind) == await contents(theirs, kind)
    await checkpointer.arelease()


async def test_threads_and_messages_keep_their_times(old: tuple[Any, str, str]) -> None:
    theirs, address, kind = old
    await fill(theirs, kind)
    made, changed, said = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]
    connection = await asyncpg.connect(address)
    await connection.execute("UPDATE threads SET created_at = $1, updated_at = $2", made, changed)
    await connection.execute("UPDATE messages SET created_at = $1 WHERE thread_id = 'thread-1'", said)
    await connection.execute("UPDATE messages SET created_at = $1 WHERE thread_id = 'thread-2'", made)
    await connection.execute("UPDATE messages SET created_at = NULL WHERE thread_id = 'thread-3'")
    await connection.execute("UPDATE threads SET created_at = NULL WHERE thread_id = 'thread-3'")
    await connection.close()

    await copy(address, kind)

    settings = PersistenceSettings(_env_file=None, database_url=address, db_schema=SCHEMA)
    async with Persistence[Any, Any](settings) as persistence:
        first, second, third = [
            await persistence.threads.require(thread_id, user_id=ANY_USER) for thread_id in thread_ids(kind)
        ]
        messages = await persistence.messages.page("thread-1", user_id=ANY_USER)
    assert (first.created_at, first.updated_at) == (made, said)
    assert (second.created_at, second.updated_at) == (made, changed)
    assert (third.created_at > said, third.updated_at) == (True, changed)
    assert [one.created_at for one in messages] == [said] * 3


async def test_json_that_was_written_twice_is_read(old: tuple[Any, str, str]) -> None:
    theirs, address, kind = old
    await fill(theirs, kind)
    expected = await contents(theirs, kind)
    connection = await asyncpg.connect(address)
    for column in ("threads SET meta = to_jsonb(meta::text)", "states SET state_data = to_jsonb(state_data::text)"):
        await connection.execute(f"UPDATE {column}")
    await connection.execute("INSERT INTO threads (thread_id, user_id, meta) VALUES ('broken', 'u', '\"no JSON\"')")
    await connection.close()

    assert await copy(address, kind) == {CopyOutcome.COPIED: 3, CopyOutcome.REFUSED: 1}

    checkpointer = ours(framework("agentflow"), address, kind)
    assert await contents(checkpointer, kind) == expected
    await checkpointer.arelease()


@pytest.mark.parametrize("content", ["plain", "[1, 2]", '{"a": 1}', "42"])
async def test_content_that_is_no_list_of_blocks_is_text(old: tuple[Any, str, str], content: str) -> None:
    theirs, address, kind = old
    await fill(theirs, kind)
    connection = await asyncpg.connect(address)
    await connection.execute("UPDATE messages SET content = $1 WHERE thread_id = 'thread-1'", content)
    await connection.close()

    assert await copy(address, kind) == {CopyOutcome.COPIED: 3}

    checkpointer = ours(framework("agentflow"), address, kind)
    said = await checkpointer.alist_messages({"thread_id": "thread-1", "user_id": "user-0"})
    assert [one.content[0].text for one in said[:2]] == [content] * 2
    await checkpointer.arelease()


async def test_the_command_says_how_much_it_copied(old: tuple[Any, str, str]) -> None:
    theirs, address, kind = old
    await fill(theirs, kind)

    process = await copy_by_command(address)

    assert (process.returncode, process.stdout) == (0, "")
    assert process.stderr.splitlines()[-1] == "threads: 3 copied (9 messages, 9 states)"


async def test_threads_that_exist_are_left_alone(old: tuple[Any, str, str]) -> None:
    theirs, address, kind = old
    words = framework("agentflow")
    config = {"thread_id": thread_ids(kind)[0], "user_id": "user-0"}
    checkpointer = ours(words, address, kind)
    await fill(theirs, kind)
    await checkpointer.aput_state(config, words.state(context_summary="newer"))

    copied = [await copy(address, kind) for _ in range(2)]

    assert copied == [{CopyOutcome.COPIED: 2, CopyOutcome.PRESENT: 1}, {CopyOutcome.PRESENT: 3}]
    assert (await checkpointer.aget_state(config)).context_summary == "newer"
    await checkpointer.arelease()


async def test_a_thread_that_cannot_be_stored_is_named_and_the_others_are_copied(old: tuple[Any, str, str]) -> None:
    theirs, address, kind = old
    await fill(theirs, kind)
    connection = await asyncpg.connect(address)
    await connection.execute("INSERT INTO threads (thread_id, user_id) VALUES (E'a\\nb', 'u')")
    await connection.execute("DROP TABLE tool_executions; ALTER TABLE states DROP COLUMN version")  # as in PyAgenity
    await connection.close()

    process = await copy_by_command(address, "--json")

    counts = {"copied": 3, "present already": 0, "refused": 1, "messages": 9, "states": 9}
    assert (process.returncode, json.loads(process.stdout)) == (1, counts)
    assert "thread_id: must not hold control characters" in process.stderr


async def test_a_database_without_such_tables_is_an_error(make_database: Callable[[], Awaitable[str]]) -> None:
    address = await make_database()
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=address, db_schema=SCHEMA))

    with pytest.raises(InvalidInputError, match="schema: public has no table threads"):
        await copy(address, "string")


_DEEP = "[" * 900 + "]" * 900
ODD_ROWS = [
    *(f"UPDATE threads SET meta = '{value}'" for value in ("[1]", "7", '"text"', "null", '{"n": 1e5000}', _DEEP)),
    *("UPDATE threads SET meta = NULL, thread_name = NULL", "UPDATE threads SET meta = '{\"run_id\": 7}'"),
    *("UPDATE threads SET created_at = 'infinity', updated_at = '-infinity'", "UPDATE threads SET user_id = ''"),
    "UPDATE threads SET created_at = '20000-01-01', updated_at = NULL",
    *(f"UPDATE messages SET meta = '{value}'" for value in ("[1]", "7", '"text"', "null", '{"n": 1e5000}', _DEEP)),
    *(f"UPDATE messages SET usages = '{value}'" for value in ("[1]", "7", "null", '{"total_tokens": "x"}', _DEEP)),
    *(f"UPDATE messages SET tool_calls = '{value}'" for value in ("{}", "7", "[7]", "null", '[{"n": 1e5000}]')),
    *(f"UPDATE messages SET content = '{value}'" for value in ("", "[]", "[1]", '[{"type": 1}]', "{", "1e5000", _DEEP)),
    'UPDATE messages SET content = \'[{"type": "tool_result"}, {"type": "text"}, {"type": "odd"}]\'',
    "ALTER TABLE messages ALTER content DROP NOT NULL; UPDATE messages SET content = NULL, meta = NULL, usages = NULL",
    *("UPDATE messages SET created_at = 'infinity'", "UPDATE messages SET created_at = '20000-01-01'"),
    *("UPDATE messages SET message_id = ''", "UPDATE messages SET message_id = repeat('x', 255)"),
    *(f"UPDATE states SET state_data = '{value}'" for value in ("[1]", "7", "null", '{"n": 1e5000}', _DEEP)),
    *(f"UPDATE tool_executions SET result = '{value}'" for value in ("null", "7", '{"n": 1e5000}', _DEEP)),
    "UPDATE tool_executions SET tool_call_id = ''",
    "UPDATE threads SET thread_id = ''",
]


async def test_every_row_that_the_tables_permit_is_copied_or_refused_by_its_key(
    make_database: Callable[[], Awaitable[str]], servers: EmbeddedServers
) -> None:
    from agentflow.storage.checkpointer import PgCheckpointer  # noqa: PLC0415 - where it is installed

    address, words = await make_database(), framework("agentflow")
    await migrate.upgrade(PersistenceSettings(_env_file=None, database_url=address, db_schema=SCHEMA))
    checkpointer, names = PgCheckpointer(address, redis_url=servers.redis_url, id_type="string"), []
    await checkpointer.asetup()
    connection = await asyncpg.connect(address)
    for table in ("messages", "states", "tool_executions"):  # so that an update of an id keeps its thread
        await connection.execute(
            f"ALTER TABLE {table} DROP CONSTRAINT {table}_thread_id_fkey, "
            f"ADD FOREIGN KEY (thread_id) REFERENCES threads ON UPDATE CASCADE"
        )
    for number, odd in enumerate([*ODD_ROWS, ""]):
        name = f"{number:03}"
        config = {"thread_id": name, "user_id": "u"}
        await checkpointer.aput_thread(config, words.thread_info(thread_id=name, thread_name="n", metadata={"a": 1}))
        await checkpointer.aput_state(config, words.state(context_summary="s"))
        await checkpointer.aput_messages(config, [words.text("hello")])
        await checkpointer.aput_tool_result(config, "call", RESULT)
        for statement in filter(None, odd.split("; ")):
            await connection.execute(
                f"{statement} WHERE thread_id = '{name}'" if statement.startswith("UPDATE") else statement
            )
        names.append("" if odd.endswith("thread_id = ''") else name)
    await connection.close()
    await checkpointer.arelease()

    settings = PersistenceSettings(_env_file=None, database_url=address, db_schema=SCHEMA)
    async with Persistence[str, str](settings) as persistence:
        source = DatabaseUrl.parse(address, "URL")
        first, second = [
            {thread.thread_id: thread async for thread in copy_tables(source, persistence, schema="public")}
            for _ in range(2)
        ]
        copied = {name for name, thread in first.items() if thread.outcome is CopyOutcome.COPIED}
        stored = {thread.thread_id async for thread in threads_by_age(persistence)}
        for name in copied:
            assert (await persistence.messages.page(name, user_id="u")).corrupt == ()

    refused = {name: thread.reason for name, thread in first.items() if thread.outcome is CopyOutcome.REFUSED}
    assert sorted(first) == sorted(names)
    assert (stored, copied | refused.keys()) == (copied, set(names))
    assert names[-1] in copied
    assert "" in refused
    assert {name: thread.reason for name, thread in second.items() if thread.reason} == refused
    assert all("1e5000" not in str(reason) and "[[[" not in str(reason) for reason in refused.values())
    words_of = ours(words, address, "string")
    for name in copied - {names[ODD_ROWS.index("UPDATE threads SET user_id = ''")]}:
        assert len(await words_of.alist_messages({"thread_id": name, "user_id": "u"})) == 1
    await words_of.arelease()
