"""A kept connection to Redis: what callers ask for at once, and what becomes of it when the server closes it."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from redis.asyncio import ConnectionPool, Redis

from agent_persistence.cache.circuit_breaker import CacheUnavailableError
from agent_persistence.cache.line import Line
from agent_persistence.cache.named_values import RedisValues
from agent_persistence.persistence import Persistence
from benchmarks.writes import counted_writes, start_counting


async def test_what_several_callers_do_at_once_shares_round_trips(persistence: Persistence[str, str]) -> None:
    assert persistence.cache is not None
    values, namespace = RedisValues(persistence.cache, call_seconds=2), str(uuid.uuid4())
    start_counting()

    async def keep(name: str) -> tuple[bytes | None, bool, bytes | None]:
        await values.put((namespace, name), name.encode(), ttl_seconds=100)
        return (
            await values.get((namespace, name)),
            await values.delete((namespace, name)),
            await values.get((namespace, name)),
        )

    await keep("first")  # connects
    before = counted_writes()
    kept = await asyncio.gather(*(keep(f"{number}") for number in range(20)))

    assert kept == [(b"%d" % number, True, None) for number in range(20)]
    assert counted_writes().since(before).redis <= 12


async def test_a_client_with_two_connections_serves_the_store_and_the_application(
    persistence: Persistence[str, str], user_id: str
) -> None:
    assert persistence.settings.redis_url is not None
    address = persistence.settings.redis_url.get_secret_value()
    client = Redis(connection_pool=ConnectionPool.from_url(address, max_connections=2))
    async with Persistence[str, str](persistence.settings, redis=client) as store:
        assert store.cache is not None
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        for number in range(5):
            saved = await store.states.put(thread_id, number, user_id=user_id)
            assert await store.states.get(thread_id, user_id=user_id) == saved
        await RedisValues(store.cache, call_seconds=2).put(("n", user_id), b"1", ttl_seconds=9)

        assert await client.set(user_id, b"the application's", px=1_000)
        assert store.cache.counts.unavailable == 0
    await client.aclose(close_connection_pool=True)


async def test_a_connection_that_the_server_has_closed_costs_nothing(redis: Redis) -> None:
    line = Line(redis)
    _, number = await line.send([("SET", "closed", b"1", "PX", 10_000), ("CLIENT", "ID")])
    await redis.client_kill_filter(_id=str(number))

    held, other = await line.send([("GET", "closed"), ("CLIENT", "ID")])
    [kept] = await line.send([("CLIENT", "ID")])

    assert held == b"1"
    assert other != number
    assert kept == other  # not the closed one, connected again in the time of a call
    await line.aclose()


async def test_a_refusal_meets_its_own_caller(persistence: Persistence[str, str], monkeypatch: Any) -> None:
    assert persistence.cache is not None
    values, namespace = RedisValues(persistence.cache, call_seconds=2), str(uuid.uuid4())
    send = Line.send

    async def refuse_writes(self: Line, commands: Any) -> list[Any]:  # as a server whose memory is full does
        return await send(self, [("SET", "too", "many", "arguments") if one[0] == "SET" else one for one in commands])

    monkeypatch.setattr(Line, "send", refuse_writes)
    calls = [values.get((namespace, "a")), values.put((namespace, "a"), b"1", ttl_seconds=9), values.get(("n", "b"))]
    first, put, last = await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[call-overload]  # None or bytes

    assert (first, last) == (None, None)
    assert isinstance(put, CacheUnavailableError)


async def test_a_call_that_is_cancelled_leaves_no_reply_to_the_next_one(redis: Redis) -> None:
    line = Line(redis)
    await line.send([("SET", "mine", b"1", "PX", 10_000)])
    slow = asyncio.ensure_future(line.send([("BLPOP", str(uuid.uuid4()), 5)]))
    await asyncio.sleep(0.05)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow

    assert await line.send([("GET", "mine")]) == [b"1"]
    await line.aclose()
