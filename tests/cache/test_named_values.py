"""Small values under names, in Redis beside the cached states, or in the memory of a process."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import orjson
import pytest
from memory import measured
from redis.asyncio import Redis

from agent_persistence.cache import named_values
from agent_persistence.cache.circuit_breaker import CacheUnavailableError
from agent_persistence.cache.keys import value_key
from agent_persistence.cache.line import Line
from agent_persistence.cache.named_values import LocalValues, NamedValues, RedisValues
from agent_persistence.cache.state_cache import Hit, Miss
from agent_persistence.persistence import Persistence
from benchmarks.writes import counted_writes, start_counting


@pytest.fixture(params=["Redis", "memory"])
def values(request: pytest.FixtureRequest, persistence: Persistence[str, str]) -> NamedValues:
    assert persistence.cache is not None
    return LocalValues() if request.param == "memory" else RedisValues(persistence.cache, call_seconds=2)


@pytest.fixture
def namespace() -> str:
    return f"ns:[a]*?\\{uuid.uuid4()}"


async def test_values_are_kept_by_name(values: NamedValues, namespace: str) -> None:
    names = ["", "a", "a:b", "%3A", "é\ud800\0", "*"]
    for place, name in enumerate(names):
        await values.put((namespace, name), b"%d" % place, ttl_seconds=100)

    assert [await values.get((namespace, name)) for name in names] == [b"%d" % place for place in range(len(names))]
    assert sorted(await values.names(namespace)) == sorted(names)
    assert await values.names(namespace[:-1]) == []
    assert await values.get((f"{namespace}:a", "b")) is None


async def test_the_last_value_counts(values: NamedValues, namespace: str) -> None:
    for value in (b"1", b"2"):
        await values.put((namespace, "a"), value, ttl_seconds=100)

    assert await values.get((namespace, "a")) == b"2"
    assert [await values.delete((namespace, "a")) for _ in range(2)] == [True, False]
    assert await values.get((namespace, "a")) is None


async def test_values_end(values: NamedValues, namespace: str) -> None:
    await values.put((namespace, "a"), b"1", ttl_seconds=1)
    until = time.monotonic() + 10

    while await values.get((namespace, "a")) is not None:  # both clocks are real ones
        assert time.monotonic() < until
        await asyncio.sleep(0.05)

    assert await values.names(namespace) == []
    assert await values.delete((namespace, "a")) is False


_OTHERS = [b"", b"\n", b"{}", b"1", b"\xff" * 100, b"00000000 \n1", b"[" * 10_000, b"g" * 8 + b" \n"]


@pytest.mark.parametrize("other", [*_OTHERS, "a list", "cut", "another name's"])
async def test_a_value_that_was_not_written_under_its_name_is_a_miss(
    persistence: Persistence[str, str], namespace: str, other: bytes | str
) -> None:
    assert persistence.cache is not None
    values, redis = RedisValues(persistence.cache, call_seconds=2), persistence.cache.redis
    for name in ("mine", "theirs"):
        await values.put((namespace, name), name.encode(), ttl_seconds=100)
    mine, theirs = [value_key(persistence.cache.namespace, namespace, name) for name in ("mine", "theirs")]
    stored = await redis.get(mine)
    match other:
        case "a list":
            await redis.delete(mine)
            await redis.rpush(mine, b"1")
        case "cut":
            await redis.set(mine, stored[:-1])
        case "another name's":
            await redis.copy(theirs, mine, replace=True)
        case _:
            await redis.set(mine, other)

    found = [await values.get((namespace, "mine")) for _ in range(20)]  # more than open the circuit breaker

    assert found == [None] * 20
    assert await values.get((namespace, "theirs")) == b"theirs"
    assert sorted(await values.names(namespace)) == ["mine", "theirs"]
    await values.put((namespace, "mine"), b"again", ttl_seconds=100)
    assert await values.get((namespace, "mine")) == b"again"


async def test_a_value_is_read_with_a_state_in_one_round_trip(
    persistence: Persistence[str, str], namespace: str
) -> None:
    assert persistence.cache is not None
    values = RedisValues(persistence.cache, call_seconds=2)
    start_counting()
    thread = await persistence.threads.create(user_id="ann")
    await persistence.states.put(thread.thread_id, {"step": 1}, user_id="ann")
    await values.put((namespace, "a"), b"draft", ttl_seconds=100)
    await values.get_beside_state((namespace, "a"), thread.thread_id, "ann")  # connects

    before = counted_writes()
    found, value = await values.get_beside_state((namespace, "a"), thread.thread_id, "ann")
    made = counted_writes().since(before)
    of_nobody = await values.get_beside_state((namespace, "b"), thread.thread_id, "bob")

    assert isinstance(found, Hit)
    assert found.state is not None
    assert (found.state.data, value, made) == ({"step": 1}, b"draft", (0, 1))
    assert of_nobody == (Miss(absent=True), None)


async def test_values_that_several_callers_read_at_once_share_round_trips(
    persistence: Persistence[str, str], namespace: str
) -> None:
    assert persistence.cache is not None
    values, redis = RedisValues(persistence.cache, call_seconds=2), persistence.cache.redis
    start_counting()
    for number in range(20):
        await values.put((namespace, f"{number}"), b"%d" % number, ttl_seconds=100)
    await redis.delete(value_key(persistence.cache.namespace, namespace, "7"))
    await redis.rpush(value_key(persistence.cache.namespace, namespace, "7"), b"of another program")

    async def read_all() -> list[bytes | None]:
        return await asyncio.gather(*[values.get((namespace, f"{number}")) for number in range(20)])

    await read_all()  # connects
    before = counted_writes()
    found = await read_all()

    assert found == [None if number == 7 else b"%d" % number for number in range(20)]
    assert counted_writes().since(before).redis <= 3


async def test_keys_of_another_program_are_no_names(persistence: Persistence[str, str], namespace: str) -> None:
    assert persistence.cache is not None
    values = RedisValues(persistence.cache, call_seconds=2)
    await values.put((namespace, "mine"), b"1", ttl_seconds=100)
    prefix = value_key(persistence.cache.namespace, namespace, "")
    for end in (b"\xff", b"%zz", b"a b", b"%61"):
        await persistence.cache.redis.set(prefix + end, b"1")

    assert await values.names(namespace) == ["mine"]


async def test_the_memory_of_a_process_is_bounded() -> None:
    values = LocalValues(most_bytes=2_400)

    for name in ("a", "b", "c", "a", "d"):
        await values.put(("n", name), b"1" * 300, ttl_seconds=100)
    await values.put(("n", "d"), b"1" * 3_000, ttl_seconds=100)  # an older value must not be found in its place

    assert sorted(await values.names("n")) == ["a", "c"]


@pytest.mark.parametrize(
    "size", [1_000, *(pytest.param(size, marks=pytest.mark.slow) for size in (1, 100, 10_000, 1_000_000))]
)
async def test_values_take_no_more_memory_than_their_limit(size: int) -> None:
    limit = 2 * 1024 * 1024
    values = LocalValues(limit)

    with measured() as memory:
        for number in range(9_000 if size < 10_000 else 300):
            await values.put((f"n{number}", f"name {number}"), orjson.dumps("x" * size), ttl_seconds=9)

    assert limit / 3 < memory.grown < limit


async def test_expired_values_free_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 1_000.0
    monkeypatch.setattr(named_values.time, "monotonic", lambda: clock)
    values = LocalValues()

    with measured() as memory:
        for number in range(1_000):
            await values.put(("n", f"{number}"), b"x" * 10_000, ttl_seconds=1 + number % 7)
        clock += 8
        await values.put(("n", "last"), b"x", ttl_seconds=1)

    assert memory.grown < 100_000


async def test_an_absent_redis_is_said_to_be_so(persistence: Persistence[str, str], monkeypatch: Any) -> None:
    assert persistence.cache is not None
    values = RedisValues(persistence.cache, call_seconds=2)

    with monkeypatch.context() as patch:
        patch.setattr(persistence.cache, "is_named", False)
        with pytest.raises(CacheUnavailableError):
            await values.get(("n", "a"))
        assert await values.get_beside_state(("n", "a"), "t-1", "ann") == (Miss(absent=False), None)
    with monkeypatch.context() as patch:
        patch.setattr(persistence.cache, "line", Line(Redis.from_url("redis://127.0.0.1:1")))
        with pytest.raises(CacheUnavailableError):
            await values.put(("n", "a"), b"1", ttl_seconds=1)
