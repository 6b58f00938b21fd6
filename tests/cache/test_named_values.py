"""Small values under names, in Redis beside the cached states, or in the memory of a process."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

import pytest
from redis.asyncio import Redis

from agent_persistence.cache import named_values
from agent_persistence.cache.circuit_breaker import CacheUnavailableError
from agent_persistence.cache.named_values import LocalValues, NamedValues, RedisValues
from agent_persistence.persistence import Persistence


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


async def test_the_memory_of_a_process_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named_values, "_MOST_KEPT", 3)
    values = LocalValues()

    for name in ("a", "b", "c", "a", "d"):
        await values.put(("n", name), b"", ttl_seconds=100)

    assert sorted(await values.names("n")) == ["a", "c", "d"]


async def test_an_absent_redis_is_said_to_be_so(persistence: Persistence[str, str], monkeypatch: Any) -> None:
    assert persistence.cache is not None
    values = RedisValues(persistence.cache, call_seconds=2)

    with monkeypatch.context() as patch:
        patch.setattr(persistence.cache, "is_named", False)
        with pytest.raises(CacheUnavailableError):
            await values.get(("n", "a"))
    with monkeypatch.context() as patch:
        patch.setattr(type(persistence.cache), "redis", Redis.from_url("redis://127.0.0.1:1"))
        with pytest.raises(CacheUnavailableError):
            await values.put(("n", "a"), b"1", ttl_seconds=1)
