"""Each command of the protocol, against each thing that a key may hold by the time it arrives."""

from __future__ import annotations

import uuid

import pytest
from redis.asyncio import Redis

from agent_persistence.cache.register import LEASE, QUARANTINE, KeyState, StateRegister

MINE, THEIRS = QUARANTINE + b"m" * 16, QUARANTINE + b"t" * 16
MY_LEASE, THEIR_LEASE = LEASE + b"m" * 16, LEASE + b"t" * 16
TTL_MS = 60_000


def value(version: int) -> bytes:
    return b"V%020d{}" % version


@pytest.fixture
def key() -> bytes:
    return f"test-{uuid.uuid4()}".encode()


@pytest.fixture
def register(redis: Redis) -> StateRegister:
    return StateRegister(redis)


async def put(redis: Redis, key: bytes, held: bytes | None) -> None:
    if held is not None:
        await redis.set(key, held)


@pytest.mark.parametrize(
    ("held", "left"),
    [
        (MINE, value(5)),
        (THEIRS, THEIRS),
        (value(6), value(6)),
        (value(5), value(5)),
        (value(4), None),
        (value(10**10), value(10**10)),
        (MY_LEASE, None),
        (None, None),
    ],
)
async def test_a_publish_stores_over_its_own_quarantine_only(
    held: bytes | None, left: bytes | None, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await put(redis, key, held)

    await register.publish([(key, MINE, value(5), TTL_MS)])

    assert await redis.get(key) == left


@pytest.mark.parametrize(
    ("held", "left"), [(MINE, None), (THEIRS, THEIRS), (value(6), None), (THEIR_LEASE, None), (None, None)]
)
async def test_a_publish_of_nothing_has_the_next_reader_look(
    held: bytes | None, left: bytes | None, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await put(redis, key, held)

    await register.publish([(key, MINE, None, TTL_MS)])

    assert await redis.get(key) == left


@pytest.mark.parametrize(
    ("held", "left"),
    [(MY_LEASE, value(5)), (THEIR_LEASE, THEIR_LEASE), (THEIRS, THEIRS), (value(4), value(4)), (None, None)],
)
async def test_a_fill_stores_over_its_own_lease_only(
    held: bytes | None, left: bytes | None, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await put(redis, key, held)

    stored = await register.fill(key, MY_LEASE, value(5), TTL_MS)

    assert await redis.get(key) == left
    assert stored is (held == MY_LEASE)


@pytest.mark.parametrize(
    ("held", "left"), [(MINE, None), (THEIRS, THEIRS), (value(4), value(4)), (MY_LEASE, MY_LEASE), (None, None)]
)
async def test_an_abort_removes_its_own_quarantine_only(
    held: bytes | None, left: bytes | None, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await put(redis, key, held)

    await register.abort({key: MINE})

    assert await redis.get(key) == left


@pytest.mark.parametrize("held", [THEIRS, THEIR_LEASE, value(4), None])
async def test_a_writer_quarantines_whatever_is_there(
    held: bytes | None, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await put(redis, key, held)

    await register.begin_write({key: MINE})

    assert await redis.get(key) == MINE
    assert 0 < await redis.pttl(key) <= 10_000


@pytest.mark.parametrize("held", [THEIRS, THEIR_LEASE, value(4), None])
async def test_an_invalidation_is_a_quarantine_of_nobody(
    held: bytes | None, redis: Redis, register: StateRegister, key: bytes
) -> None:
    await put(redis, key, held)

    await register.invalidate([key])

    left = await redis.get(key)
    assert left.startswith(QUARANTINE)
    assert left != THEIRS


@pytest.mark.parametrize("held", [THEIRS, THEIR_LEASE, value(4)])
async def test_a_lease_is_given_for_an_absent_key_only(
    held: bytes, redis: Redis, register: StateRegister, key: bytes
) -> None:
    first = await register.lease(key)
    second = await register.lease(key)
    await redis.set(key, held)

    assert first is not None
    assert first.startswith(LEASE)
    assert second is None
    assert await register.lease(key) is None


async def test_a_reader_sees_a_value_and_nothing_else(redis: Redis, register: StateRegister, key: bytes) -> None:
    states = [await register.read(key)]
    for held in (THEIRS, THEIR_LEASE, value(4)):
        await redis.set(key, held)
        states.append(await register.read(key))

    assert states == [(KeyState.ABSENT, b""), (KeyState.BUSY, b""), (KeyState.BUSY, b""), (KeyState.VALUE, value(4))]
