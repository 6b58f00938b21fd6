"""What the commands of the protocol answer, and for how long what they leave stands.

What each makes of each thing that a key may hold is proved beside the model.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from redis.asyncio import Redis

from agent_persistence.cache.register import LEASE, QUARANTINE, KeyState, StateRegister

MINE, MY_LEASE, THEIR_LEASE = QUARANTINE + b"m" * 16, LEASE + b"m" * 16, LEASE + b"t" * 16
TTL_MS = 60_000


def value(version: int) -> bytes:
    return b"V%020d{}" % version


@pytest.fixture
def key() -> bytes:
    return f"test-{uuid.uuid4()}".encode()


@pytest_asyncio.fixture
async def register(redis: Redis) -> AsyncIterator[StateRegister]:
    made = StateRegister(redis)
    yield made
    await made.aclose()


async def test_leases_and_quarantines_and_values_end_by_themselves(
    redis: Redis, register: StateRegister, key: bytes
) -> None:
    lives = []

    lease = await register.lease(key)
    lives.append(await redis.pttl(key))
    assert lease is not None
    await register.fill(key, lease, value(4), TTL_MS)
    lives.append(await redis.pttl(key))
    await register.begin_write({key: MINE})
    lives.append(await redis.pttl(key))
    await register.publish([(key, MINE, value(5), TTL_MS)])
    lives.append(await redis.pttl(key))
    await register.invalidate([key])
    lives.append(await redis.pttl(key))

    limits = [2_000, TTL_MS, 10_000, TTL_MS, 10_000]
    assert [limit - 1_000 < life <= limit for life, limit in zip(lives, limits, strict=True)] == [True] * 5


@pytest.mark.parametrize(("held", "stored"), [(MY_LEASE, True), (THEIR_LEASE, False), (MINE, False)])
async def test_a_fill_says_whether_it_stored(
    held: bytes, stored: bool, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await redis.set(key, held)

    assert await register.fill(key, MY_LEASE, value(5), TTL_MS) is stored


@pytest.mark.parametrize(("mine", "theirs"), [(5, 10**10), (10**10 - 1, 10**10), (2**53, 2**53 + 1)])
async def test_a_newer_version_is_newer_however_long_the_numbers_are(
    mine: int, theirs: int, redis: Redis, register: StateRegister, key: bytes
) -> None:
    """Lua knows no ints: beyond 53 bits its numbers are equal where ours are not."""
    await redis.set(key, value(theirs))
    await register.publish([(key, MINE, value(mine), TTL_MS)])
    left_by_the_older = await redis.get(key)

    await redis.set(key, value(mine))
    await register.publish([(key, MINE, value(theirs), TTL_MS)])

    assert left_by_the_older == value(theirs)
    assert await redis.get(key) is None


async def test_a_reader_sees_a_value_and_nothing_else(redis: Redis, register: StateRegister, key: bytes) -> None:
    states = await register.read([key])
    for held in (MINE, MY_LEASE, value(4)):
        await redis.set(key, held)
        states += await register.read([key])

    assert states == [(KeyState.ABSENT, b""), (KeyState.BUSY, b""), (KeyState.BUSY, b""), (KeyState.VALUE, value(4))]
