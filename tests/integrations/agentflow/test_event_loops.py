"""Calls from running loops, from none, and from loops that come and go; and the release of connections."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import pytest
from frameworks import Framework, need_frameworks
from redis.asyncio import ConnectionPool, Redis

from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import ClosedError, InvalidInputError, MisuseError
from agent_persistence.integrations.checkpointing.store import CheckpointStore
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

need_frameworks()

THREAD = "agent-persistence checkpointer"


@pytest.fixture
def words(agentflow: Framework) -> Framework:
    """One framework is enough: neither knows of loops and pools."""
    return agentflow


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


async def test_a_synchronous_call_inside_a_running_loop_returns(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(words)

    await checkpointer.aput_state(config, words.state(context_summary="1"))
    checkpointer.put_state(config, words.state(context_summary="2"))

    assert (await checkpointer.aget_state(config)).context_summary == "2"
    assert checkpointer.get_state(config).context_summary == "2"


def test_loops_come_and_go(words: Framework, make: Any, config: dict[str, Any]) -> None:
    checkpointer = make(words)

    for number in range(3):
        asyncio.run(checkpointer.aput_messages(config, [words.text(f"async {number}")]))
        checkpointer.put_messages(config, [words.text(f"sync {number}")])

    assert len(checkpointer.list_messages(config)) == 6


def test_many_threads_call_at_once(words: Framework, make: Any, config: dict[str, Any]) -> None:
    checkpointer = make(words)

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(lambda number: checkpointer.put_messages(config, [words.text(str(number))]), range(40)))

    assert sorted(int(one.text()) for one in checkpointer.list_messages(config)) == list(range(40))
    assert len(threads()) == 1


def test_many_threads_call_at_once_again_after_a_release(words: Framework, make: Any, config: dict[str, Any]) -> None:
    checkpointer = make(words)

    with ThreadPoolExecutor(8) as executor:
        for _ in range(2):
            list(executor.map(lambda text: checkpointer.put_messages(config, [words.text(text)]), "abcdefghijklmnop"))
            checkpointer.release()

    assert len(checkpointer.list_messages(config)) == 32


def test_a_call_during_a_release_is_served_or_raises_closed_error(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(words)

    def put(number: int) -> int:
        try:
            checkpointer.put_messages(config, [words.text(str(number))])
        except ClosedError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as executor:
        calls = [executor.submit(put, number) for number in range(60)]
        for call in calls[::10]:
            call.result()
            checkpointer.release()

    assert put(60) == 1
    assert len(checkpointer.list_messages(config)) >= sum(call.result() for call in calls) + 1


async def test_an_awaited_call_that_a_release_ends_is_not_taken_for_cancelled(
    words: Framework, make: Any, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_under_way = threading.Event()

    async def endless(*_: Any) -> None:
        is_under_way.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(CheckpointStore, "get_state", endless)
    checkpointer = make(words)
    call = asyncio.create_task(checkpointer.aget_state(config))
    await asyncio.to_thread(is_under_way.wait)

    await checkpointer.arelease()

    with pytest.raises(ClosedError):
        await call


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
async def test_a_child_process_opens_its_own(words: Framework, address: str, config: dict[str, Any]) -> None:
    program = (
        "import os\n"
        f"from agent_persistence.integrations.{words.name} import PersistenceCheckpointer\n"
        f"checkpointer = PersistenceCheckpointer({address!r})\n"
        f"checkpointer.get_state({config!r})\n"
        "child = os.fork()\n"
        f"print(checkpointer.get_state({config!r}))\n"
        "if child == 0:\n"
        "    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "checkpointer.release()\n"
    )

    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-u", "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (sorted(process.stdout.split()), process.stderr) == (["0", "None", "None"], "")


async def test_release_ends_the_thread_and_the_next_call_starts_another(
    words: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(words)
    assert threads() == []  # nothing is started before it is needed

    for number in range(2):
        await checkpointer.aput_messages(config, [words.text(str(number))])
        assert len(threads()) == 1
        assert await checkpointer.arelease() is True
        assert threads() == []
    assert await checkpointer.arelease() is True
    assert len(checkpointer.list_messages(config)) == 2
    assert checkpointer.release() is True
    assert threads() == []


async def test_connections_are_closed_by_release(
    words: Framework, make: Any, address: str, config: dict[str, Any]
) -> None:
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    connection = await asyncpg.connect(address)
    before = await connection.fetchval(count)
    checkpointer = make(words)
    await checkpointer.aput_state(config, words.state())
    assert await connection.fetchval(count) > before

    await checkpointer.arelease()

    async with asyncio.timeout(10):
        while await connection.fetchval(count) > before:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)
    await connection.close()


async def test_a_new_process_reads_what_was_written(
    words: Framework, make: Any, address: str, config: dict[str, Any]
) -> None:
    await make(words).aput_state(config, words.state(context_summary="before the restart"))
    program = (
        f"from agent_persistence.integrations.{words.name} import PersistenceCheckpointer\n"
        f"checkpointer = PersistenceCheckpointer({address!r})\n"
        f"print(checkpointer.get_state({config!r}).context_summary)\n"
        "checkpointer.release()\n"
    )

    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False
    )

    assert (process.stdout.strip(), process.stderr) == ("before the restart", "")


# --- Resources of the host ---


async def test_a_given_persistence_is_used_and_left_open(
    words: Framework, address: str, servers: EmbeddedServers, config: dict[str, Any]
) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=address, redis_url=servers.redis_url)
    async with Persistence[Any, Any](settings) as persistence:
        checkpointer = words.ours(persistence=persistence)
        said = [words.text("hello")]

        await checkpointer.aput_messages(config, said)
        await checkpointer.aput_state(config, words.state(context_summary="1"))
        assert threads() == []
        await asyncio.to_thread(checkpointer.put_state, config, words.state(context_summary="2"))
        assert checkpointer.get_state(config).context_summary == "2"
        await checkpointer.arelease()

        assert threads() == []
        [message] = await persistence.messages.page(config["thread_id"], user_id=config["user_id"])
        assert message.message == {"role": "user", "content": "hello"}
        await persistence.messages.append(
            config["thread_id"], {"role": "assistant", "content": "hi"}, user_id=config["user_id"]
        )
        assert [one.text() for one in await checkpointer.alist_messages(config)] == ["hello", "hi"]


@pytest.mark.parametrize("redis", ["given", "by address", "none"])
async def test_a_given_pool_is_used_and_left_as_it_was(
    words: Framework, address: str, servers: EmbeddedServers, config: dict[str, Any], redis: str
) -> None:
    client = Redis.from_url(servers.redis_url)
    how = {"given": {"redis": client}, "by address": {"redis_url": servers.redis_url}, "none": {}}[redis]
    async with asyncpg.create_pool(address, min_size=1, max_size=3) as pool:
        connection = await pool.fetchval("SELECT pg_backend_pid()")
        checkpointer, said = words.ours(pg_pool=pool, **how), [words.text(str(number)) for number in range(5)]

        await checkpointer.asetup()
        await asyncio.gather(*(checkpointer.aput_messages(config, [one]) for one in said))
        for number in range(3):
            await checkpointer.aput_state(config, words.state(context_summary=str(number), context=said))
        await checkpointer.aput_state_cache(config, words.state(context_summary="draft"))

        assert len(await checkpointer.alist_messages(config)) == 5
        assert (await checkpointer.aget_state(config)).context_summary == "2"
        assert (await checkpointer.aget_state_cache(config)).context_summary == "draft"
        assert await pool.fetchval("SELECT $1::jsonb", '{"a": 1}') == '{"a": 1}'
        with pytest.raises(MisuseError, match="postgres_dsn"):
            checkpointer.get_state(config)
        await checkpointer.arelease()
        assert pool.get_idle_size() == pool.get_size()
        assert await pool.fetchval("SELECT count(*) FROM pg_stat_activity WHERE pid = $1", connection) == 1
    await client.aclose()


async def test_a_given_pool_of_redis_is_used_and_left_open(
    words: Framework, make: Any, servers: EmbeddedServers, config: dict[str, Any]
) -> None:
    pool = ConnectionPool.from_url(servers.redis_url)
    checkpointer = make(words, redis_url=None, redis_pool=pool)

    await checkpointer.aput_cache_value("shared", config["thread_id"], 1)
    with pytest.raises(MisuseError, match="redis_url"):
        checkpointer.get_state(config)
    await checkpointer.arelease()

    assert await make(words).aget_cache_value("shared", config["thread_id"]) == 1
    async with Redis(connection_pool=pool) as client:
        assert await client.ping()
    await pool.disconnect()


async def test_a_given_persistence_is_closed_by_a_release_of_what_was_given(
    words: Framework, address: str, config: dict[str, Any]
) -> None:
    persistence = Persistence[Any, Any](PersistenceSettings(_env_file=None, database_url=address))
    async with persistence:
        checkpointer = words.ours(persistence=persistence, release_resources=True)
        await checkpointer.aput_state(config, words.state())

        with pytest.raises(MisuseError, match="await arelease"):
            checkpointer.release()
        await checkpointer.arelease()

        assert persistence.closed


async def test_a_given_pool_goes_with_an_address_for_synchronous_calls(
    words: Framework, address: str, servers: EmbeddedServers, config: dict[str, Any]
) -> None:
    async with asyncpg.create_pool(address, min_size=1, max_size=2) as pool:
        checkpointer = words.ours(address, pool, redis_url=servers.redis_url)

        await checkpointer.aput_state(config, words.state(context_summary="async"))
        assert checkpointer.get_state(config).context_summary == "async"

        with pytest.raises(MisuseError, match="await arelease"):
            checkpointer.release()
        await checkpointer.arelease()


async def test_a_pool_that_decodes_json_is_refused(words: Framework, address: str) -> None:
    async def set_codec(connection: Any) -> None:
        await connection.set_type_codec("jsonb", encoder=str, decoder=len, schema="pg_catalog")

    async with asyncpg.create_pool(address, min_size=1, max_size=1, init=set_codec) as pool:
        with pytest.raises(InvalidInputError, match="pg_pool: has a type codec for jsonb"):
            await words.ours(pg_pool=pool).asetup()


async def test_a_busy_pool_is_an_error_of_its_own(
    words: Framework, address: str, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSISTENCE_POOL_TIMEOUT", "0.2")
    async with asyncpg.create_pool(address, min_size=1, max_size=1) as pool:
        checkpointer = words.ours(pg_pool=pool)
        await checkpointer.asetup()

        async with pool.acquire():
            with pytest.raises(words.transient_error, match="no connection free"):
                await checkpointer.aget_state(config)
        await checkpointer.arelease()


async def test_release_resources_closes_what_was_given(
    words: Framework, address: str, servers: EmbeddedServers, config: dict[str, Any]
) -> None:
    pool = asyncpg.create_pool(address, min_size=1, max_size=1)  # not awaited: it is not ready yet
    checkpointer = words.ours(pg_pool=pool, redis=Redis.from_url(servers.redis_url), release_resources=True)
    await checkpointer.aput_state(config, words.state())

    await checkpointer.arelease()

    assert pool.is_closing()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "postgres_dsn"),
        ({"redis_url": "redis://localhost"}, "postgres_dsn"),
        ({"pg_pool": "no pool"}, "pg_pool"),
        ({"postgres_dsn": "postgresql://localhost/x", "pool_config": {"ssl": True}}, "pool_config.ssl"),
    ],
)
async def test_arguments_that_cannot_work_are_refused_by_name(
    words: Framework, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        await words.ours(**arguments).asetup()

    assert refusal.value.field == field


async def test_a_persistence_goes_with_no_address(words: Framework, address: str) -> None:
    persistence = Persistence[Any, Any](PersistenceSettings(_env_file=None, database_url=address))

    with pytest.raises(InvalidInputError, match="postgres_dsn: cannot be given together with persistence"):
        words.ours(address, persistence=persistence)
    await persistence.aclose()


async def test_a_request_to_stop_that_redis_does_not_hear_is_an_error(
    agentflow: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(agentflow, redis_url="redis://127.0.0.1:1")

    with pytest.raises(agentflow.transient_error, match="request to stop"):
        await checkpointer.arequest_stop(config)

    assert await checkpointer.ais_stop_requested(config) is False
    assert await checkpointer.aput_state_cache(config, agentflow.state()) is None
    await checkpointer.aput_state(config, agentflow.state(context_summary="saved"))
    assert (await checkpointer.aget_state_cache(config)).context_summary == "saved"


async def test_a_cache_that_is_away_has_nothing_and_keeps_nothing(
    agentflow: Framework, make: Any, config: dict[str, Any]
) -> None:
    checkpointer = make(agentflow, redis_url="redis://127.0.0.1:1")

    assert await checkpointer.aput_cache_value("away", "key", 1) is None
    assert await checkpointer.aget_cache_value("away", "key") is None
    assert await checkpointer.aclear_cache_value("away", "key") is False
    assert await checkpointer.alist_cache_keys("away") == []
    assert await checkpointer.aclear_state(config) is True
