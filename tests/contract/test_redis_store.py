"""The Redis backend beyond the contract: its index, keys, connections and faults."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from leaks import CANARY
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot
from redis.exceptions import ConnectionError as ConnectionLost
from redis_clients import WatchedRedis
from torture.servers import NOBODYS_PORT

from agent_persistence import CommitUnknownError, DatabaseError, PersistenceSettings, SettingsError, UnavailableError
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.backends.redis import RedisCheckpointer
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import ClosedError, InvalidInputError


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def checkpointer(redis: Redis, namespace: str) -> RedisCheckpointer:
    return RedisCheckpointer(client=redis, user_id="ada:{x}", namespace=namespace)


async def keys_of(redis: Redis, namespace: str) -> list[bytes]:
    return sorted([key async for key in redis.scan_iter(f"{namespace}:*", count=1000)])


async def _comes_true(condition: Callable[[], Awaitable[bool]]) -> bool:
    deadline = time.monotonic() + 5
    while not await condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


# --- the index ---


async def test_all_keys_of_an_owner_are_in_one_slot(
    checkpointer: RedisCheckpointer, redis: Redis, namespace: str
) -> None:
    for thread_id in ("a", "{b}", "c}{"):
        await checkpointer.save_state(thread_id, {}, ttl=60)

    keys = await keys_of(redis, namespace)
    assert len(keys) == 5
    assert len({key_slot(key) for key in keys}) == 1
    assert keys[0] == f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:expiries".encode()


async def test_nothing_is_left_of_an_owner_whose_threads_have_expired(
    checkpointer: RedisCheckpointer, redis: Redis, namespace: str
) -> None:
    for number in range(3):
        await checkpointer.save_state(f"t-{number}", {}, ttl=0.05 + number / 100)
    assert len(await keys_of(redis, namespace)) == 5

    async def nothing_is_left() -> bool:
        return await keys_of(redis, namespace) == []

    assert await _comes_true(nothing_is_left)


async def test_the_index_stays_with_a_thread_that_stays_and_expires_with_the_last_that_expires(
    checkpointer: RedisCheckpointer, redis: Redis, namespace: str
) -> None:
    index = f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:threads"

    await checkpointer.save_state("expires", {}, ttl=60)
    assert 59 < await redis.pttl(index) / 1000 <= 60.1
    await checkpointer.save_state("stays", {})
    assert await redis.pttl(index) == -1
    await checkpointer.save_state("expires later", {}, ttl=600)
    assert await redis.pttl(index) == -1
    await checkpointer.delete_thread("stays")
    assert 599 < await redis.pttl(index) / 1000 <= 600.1
    await checkpointer.save_state("expires", {})
    assert await redis.pttl(index) == -1


async def test_a_clock_that_goes_back_does_not_change_the_order_of_saves(
    checkpointer: RedisCheckpointer, redis: Redis, namespace: str
) -> None:
    await checkpointer.save_state("a", {})
    in_an_hour = (time.time() + 3600) * 1_000_000
    await redis.zadd(f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:threads", {"a": int(in_an_hour)})

    await checkpointer.save_state("b", {})

    assert [thread.thread_id for thread in await checkpointer.list_threads()] == ["b", "a"]


async def test_expired_threads_leave_the_index_at_the_next_save(
    checkpointer: RedisCheckpointer, redis: Redis, namespace: str
) -> None:
    await checkpointer.save_state("stays", {})
    for number in range(5):
        await checkpointer.save_state(f"t-{number}", {}, ttl=0.01)
    await asyncio.sleep(0.02)

    await checkpointer.save_state("stays", {})

    assert await redis.zcard(f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:threads") == 1
    assert await redis.exists(f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:expiries") == 0


async def test_evicted_threads_are_not_listed(checkpointer: RedisCheckpointer, redis: Redis, namespace: str) -> None:
    for number in range(6):
        await checkpointer.save_state(f"t-{number}", {})
    for number in (1, 3, 5):
        await redis.delete(f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:thread:t-{number}")

    first = await checkpointer.list_threads(limit=2)
    second = await checkpointer.list_threads(limit=2, after=first.after)

    assert [thread.thread_id for thread in (*first, *second)] == ["t-4", "t-2", "t-0"]
    assert second.after is None
    assert await redis.zcard(f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:threads") == 3


async def test_only_the_newest_versions_are_kept(redis: Redis, namespace: str) -> None:
    limits = CheckpointLimits(max_history=3)
    checkpointer = RedisCheckpointer(client=redis, user_id="u", namespace=namespace, limits=limits)
    saved = [await checkpointer.save_state("t", step) for step in range(7)]

    assert [one.version - saved[0].version for one in saved] == [0, 1, 2, 3, 4, 5, 6]
    assert list(await checkpointer.state_history("t")) == saved[:-4:-1]
    assert await checkpointer.load_state("t", version=saved[3].version) is None
    versions = [key for key in await redis.hkeys(f"{namespace}:checkpoints:{{u}}:thread:t") if key.isdigit()]
    assert len(versions) == 3


# --- connections ---


async def test_a_client_that_was_given_stays_open(servers: EmbeddedServers) -> None:
    async with Redis.from_url(servers.redis_url) as client:
        async with RedisCheckpointer(client=client, user_id="u") as checkpointer:
            pass
        assert await client.ping()
        with pytest.raises(ClosedError):
            await checkpointer.load_state("t")


async def test_the_pool_of_a_checkpointer_is_bounded_and_closed(
    servers: EmbeddedServers, redis: Redis, namespace: str
) -> None:
    url = f"{servers.redis_url}?client_name={namespace}"
    settings = PersistenceSettings(redis_url=url, namespace=namespace, pool_size=2, max_overflow=1)

    async def connections() -> int:
        return sum(client["name"] == namespace for client in await redis.client_list())

    async def all_are_closed() -> bool:
        return await connections() == 0

    async with RedisCheckpointer.from_settings(settings, user_id="u") as checkpointer:
        await asyncio.gather(*(checkpointer.save_state(f"t-{number}", {}) for number in range(40)))
        assert await connections() == 3
    assert await _comes_true(all_are_closed)


@pytest.mark.parametrize("both", [True, False])
async def test_it_takes_a_client_or_a_url(redis: Redis, *, both: bool) -> None:
    given: dict[str, Any] = {"client": redis, "url": "redis://h"} if both else {}
    with pytest.raises(InvalidInputError, match="client"):
        RedisCheckpointer(user_id="u", **given)


async def test_wrong_arguments_are_refused_by_name(servers: EmbeddedServers, redis: Redis) -> None:
    with pytest.raises(InvalidInputError, match="^url: "):
        RedisCheckpointer(url=f"http://:{CANARY}@h", user_id="u")
    with pytest.raises(InvalidInputError, match="^namespace: "):
        RedisCheckpointer(client=redis, user_id="u", namespace="{x}")
    with pytest.raises(InvalidInputError, match="^user_id: "):
        RedisCheckpointer(client=redis, user_id="")
    with pytest.raises(SettingsError, match="^PERSISTENCE_REDIS_URL: "):
        RedisCheckpointer.from_settings(PersistenceSettings(_env_file=None), user_id="u")
    async with Redis.from_url(servers.redis_url, decode_responses=True) as decoding:
        with pytest.raises(InvalidInputError, match="^client: must return bytes"):
            RedisCheckpointer(client=decoding, user_id="u")


# --- faults ---


class LosingRedis(WatchedRedis):
    """Loses some replies after the server has executed the command."""

    losing = 0
    meanwhile: Callable[[], Awaitable[Any]] | None = None

    async def around(self, name: str, send: Callable[[], Awaitable[Any]]) -> Any:
        reply = await send()
        if self.losing and name.startswith("EVAL"):
            self.losing -= 1
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile is not None:
                await meanwhile()
            raise ConnectionLost("lost")
        return reply


@pytest_asyncio.fixture
async def losing(servers: EmbeddedServers) -> AsyncIterator[LosingRedis]:
    async with LosingRedis.from_url(servers.redis_url) as client:
        yield client


async def test_a_save_whose_reply_was_lost_is_done_once(losing: LosingRedis, namespace: str) -> None:
    checkpointer = RedisCheckpointer(client=losing, user_id="u", namespace=namespace)
    first = await checkpointer.save_state("t", 1, ttl=60)
    losing.losing = 2

    second = await checkpointer.save_state("t", 2, ttl=60, expected_version=first.version)

    assert losing.losing == 0
    assert list(await checkpointer.state_history("t")) == [second, first]


@pytest.mark.parametrize("expected", [True, False], ids=["over a version", "over any"])
async def test_a_save_whose_reply_was_lost_is_done_once_though_others_have_saved_since(
    losing: LosingRedis, namespace: str, *, expected: bool
) -> None:
    checkpointer = RedisCheckpointer(client=losing, user_id="u", namespace=namespace)
    first = await checkpointer.save_state("t", 1)
    losing.losing, losing.meanwhile = 1, lambda: checkpointer.save_state("t", 3)

    second = await checkpointer.save_state("t", 2, expected_version=first.version if expected else None)

    third = await checkpointer.load_state("t")
    assert third is not None
    assert third.state == 3
    assert list(await checkpointer.state_history("t")) == [third, second, first]


async def test_without_time_for_a_retry_a_lost_reply_leaves_the_outcome_unknown(
    losing: LosingRedis, namespace: str
) -> None:
    checkpointer = RedisCheckpointer(client=losing, user_id="u", namespace=namespace, retry_seconds=0)
    await checkpointer.save_state("t", 1)  # the server knows the scripts now
    await checkpointer.delete_thread("x")
    losing.losing = 1
    with pytest.raises(CommitUnknownError):
        await checkpointer.save_state("t", 2)
    losing.losing = 1
    with pytest.raises(UnavailableError):
        await checkpointer.load_state("t")

    found = await checkpointer.load_state("t")
    assert found is not None
    assert found.state == 2


async def test_a_deletion_is_not_retried_after_a_lost_reply(losing: LosingRedis, namespace: str) -> None:
    checkpointer = RedisCheckpointer(client=losing, user_id="u", namespace=namespace)
    await checkpointer.save_state("t", 1)
    await checkpointer.delete_thread("x")
    losing.losing = 1

    with pytest.raises(CommitUnknownError):
        await checkpointer.delete_thread("t")

    assert await checkpointer.load_state("t") is None


async def test_a_server_that_does_not_answer_is_unavailable_and_no_error_holds_the_password() -> None:
    async with RedisCheckpointer(
        url=f"redis://:{CANARY}@127.0.0.1:1/0", user_id="u", retry_seconds=0.05
    ) as checkpointer:
        with pytest.raises(UnavailableError) as away:
            await checkpointer.save_state("t", {})

    assert CANARY not in str(away.value)


async def test_a_server_that_forgot_the_scripts_gets_them_again(checkpointer: RedisCheckpointer, redis: Redis) -> None:
    await checkpointer.save_state("t", 1)
    await redis.script_flush()

    saved = await checkpointer.save_state("t", 2)

    assert await checkpointer.load_state("t") == saved


async def test_a_full_server_saves_nothing_and_the_error_says_so(checkpointer: RedisCheckpointer, redis: Redis) -> None:
    saved = await checkpointer.save_state("t", 1)
    usual = await redis.config_get("maxmemory*")
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(DatabaseError, match="Redis is full"):
            await checkpointer.save_state("t", 2)
        with pytest.raises(DatabaseError, match="Redis is full"):
            await checkpointer.save_state("another", 1)
        assert await checkpointer.load_state("t") == saved
        assert [thread.thread_id for thread in await checkpointer.list_threads()] == ["t"]
        assert await checkpointer.delete_thread("t")
    finally:
        await redis.config_set("maxmemory", usual["maxmemory"])
        await redis.config_set("maxmemory-policy", usual["maxmemory-policy"])


async def test_a_key_of_another_program_is_left_alone(
    checkpointer: RedisCheckpointer, redis: Redis, namespace: str
) -> None:
    key = f"{namespace}:checkpoints:{{ada%3A%7Bx%7D}}:thread:t"
    await redis.set(key, "theirs")

    with pytest.raises(DatabaseError, match="Redis refused"):
        await checkpointer.save_state("t", {})

    assert await redis.get(key) == b"theirs"
    assert len(await checkpointer.list_threads()) == 0


async def test_a_cluster_that_cannot_be_reached_is_unavailable() -> None:
    checkpointer = RedisCheckpointer(
        client=RedisCluster(host="127.0.0.1", port=NOBODYS_PORT), user_id="u", retry_seconds=0
    )

    with pytest.raises(UnavailableError):
        await checkpointer.load_state("t")
    with pytest.raises(UnavailableError) as caught:
        await checkpointer.save_state("t", 1)

    assert caught.value.committed == "no"
