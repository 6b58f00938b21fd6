"""What the code sends to PostgreSQL and Redis is a way through the model, and Redis does what the model says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing, suppress
from typing import Any, Final, NamedTuple

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from agent_persistence.cache.keys import state_key
from agent_persistence.cache.register import StateRegister
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.persistence import Persistence
from model.checker import follow
from model.code_steps import WatchedKey
from model.protocols import ABSENT, LEASE, NOBODY, QUARANTINE, VALUE, Action, Key, QuarantineProtocol
from model.world import Fault, World, first_world

Store = Persistence[str, str]
Deed = Callable[[Store, str, str], Awaitable[Any]]

PROTOCOL: Final = QuarantineProtocol()
READERS_DO: Final = {Action.READ, Action.LEASE, Action.SELECT, Action.FILL}

CACHED: Final = Key(VALUE, 1)
LEASED: Final = Key(LEASE, 1)
QUARANTINED: Final = Key(QUARANTINE, NOBODY)


def to_redis(key: Key) -> bytes:
    """A held key as Redis holds it."""
    return b"V%020d{}" % key.of if key.holds == VALUE else b"%b%016d" % (key.holds.encode(), key.of)


def from_redis(held: bytes | None) -> Key:
    """The other way round; a token that is not from here is nobody's."""
    if held is None:
        return ABSENT
    kind, rest = held[:1].decode(), held[1:]
    if kind == VALUE:
        return Key(VALUE, int(rest[:20]))
    return Key(kind, int(rest) if rest.isdigit() else NOBODY)


async def hold(redis: Redis, name: bytes, key: Key) -> None:
    await (redis.delete(name) if key == ABSENT else redis.set(name, to_redis(key)))


# What is done, in which order.


async def read(store: Store, thread_id: str, user_id: str) -> None:
    await store.states.get(thread_id, user_id=user_id)


async def write(store: Store, thread_id: str, user_id: str) -> None:
    await store.states.put(thread_id, "new", user_id=user_id)


async def clear(store: Store, thread_id: str, user_id: str) -> None:
    await store.states.clear(thread_id, user_id=user_id)


async def delete_the_thread(store: Store, thread_id: str, user_id: str) -> None:
    await store.threads.delete(thread_id, user_id=user_id)


async def write_and_fail(store: Store, thread_id: str, user_id: str) -> None:
    with suppress(RuntimeError):
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, "new")
            raise RuntimeError


async def write_and_be_cancelled_with_the_key_quarantined(store: Store, thread_id: str, user_id: str) -> None:
    assert store.cache is not None
    before_commit, quarantined = store.cache.before_commit, asyncio.Event()

    async def stall(quarantine: Any) -> None:
        await before_commit(quarantine)
        quarantined.set()
        await asyncio.Event().wait()

    async def write_in_a_unit_of_work() -> None:
        async with store.begin(user_id=user_id) as uow:
            await uow.states.put(thread_id, "new")

    store.cache.before_commit = stall
    writer = asyncio.create_task(write_in_a_unit_of_work())
    await quarantined.wait()
    writer.cancel()
    with suppress(asyncio.CancelledError):
        await writer


async def write_without_reaching_redis_in_time(store: Store, thread_id: str, user_id: str) -> None:
    async def fail(_: Any) -> None:
        raise RedisConnectionError

    assert store.cache is not None
    store.cache._register.begin_write = fail  # noqa: SLF001 - behind the API
    await write(store, thread_id, user_id)


async def read_and_be_overtaken_by_a_write(store: Store, thread_id: str, user_id: str) -> None:
    assert store.cache is not None
    fill = store.cache.fill

    async def fill_late(*arguments: Any) -> None:
        await write(store, thread_id, user_id)
        await fill(*arguments)

    store.cache.fill = fill_late
    await read(store, thread_id, user_id)


WRITE: Final = [Action.LOCK, Action.BEGIN, Action.COMMIT, Action.PUBLISH]
WITHDRAW: Final = [Action.LOCK, Action.BEGIN, Action.COMMIT, Action.PUBLISH_NOTHING]
MISS: Final = [Action.READ, Action.LEASE, Action.SELECT]


class Way(NamedTuple):
    """A deed, what the key holds before it, and what is to be seen of it."""

    deed: Deed
    start: Key
    actions: list[Action]
    fault: Fault | None = None

    def __str__(self) -> str:
        return f"{self.deed.__name__} from {self.start}"

    def through_the_model(self, actions: Iterable[Action]) -> set[World]:
        world = first_world(PROTOCOL, self.start, [self.fault] if self.fault else [], writers=1, readers=1)
        return follow(PROTOCOL, world, [("R0" if action in READERS_DO else "W0", action) for action in actions])


WAYS: Final = [
    Way(read, ABSENT, [*MISS, Action.FILL]),
    Way(read, CACHED, [Action.READ]),
    Way(read, LEASED, [Action.READ, Action.SELECT]),
    Way(read, QUARANTINED, [Action.READ, Action.SELECT]),
    Way(write, ABSENT, WRITE),
    Way(write, CACHED, WRITE),
    Way(write, LEASED, WRITE),
    Way(write, QUARANTINED, WRITE),
    Way(clear, CACHED, WITHDRAW),
    Way(delete_the_thread, CACHED, WITHDRAW),
    Way(write_and_fail, CACHED, [Action.LOCK, Action.ROLL_BACK], Fault.ROLLBACK),
    Way(
        write_and_be_cancelled_with_the_key_quarantined,
        CACHED,
        [Action.LOCK, Action.BEGIN, Action.ROLL_BACK, Action.ABORT],
        Fault.ROLLBACK,
    ),
    Way(write_without_reaching_redis_in_time, CACHED, [Action.LOCK, Action.COMMIT, Action.INVALIDATE], Fault.LOST),
    Way(read_and_be_overtaken_by_a_write, ABSENT, [*MISS, *WRITE, Action.FILL]),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_what_the_code_does_is_a_way_through_the_model(
    way: Way, persistence: Store, user_id: str, redis: Redis, servers: EmbeddedServers
) -> None:
    thread = await persistence.threads.create(user_id=user_id)
    first = await persistence.states.put(thread.thread_id, "old", user_id=user_id)
    name = state_key(persistence.cache.namespace, thread.thread_id, user_id)
    if way.start != CACHED:
        await hold(redis, name, way.start)

    with BlockingRedis.from_url(servers.redis_url) as announcer:
        watched = WatchedKey(name, persistence.engine.sync_engine, redis, announcer)
        actions = await watched.actions(lambda: way.deed(persistence, thread.thread_id, user_id))

    assert actions == way.actions
    latest = await persistence.states.get(thread.thread_id, user_id=user_id, fresh=True) or first
    held = from_redis(await redis.get(name))
    if held.holds == VALUE:  # the model counts commits, the database counts everybody's
        held = Key(VALUE, [first.version, latest.version].index(held.of) + 1)
    assert {world.key for world in way.through_the_model(actions)} == {held}


def test_another_order_is_no_way_through_the_model() -> None:
    late_quarantine = [Action.LOCK, Action.COMMIT, Action.BEGIN, Action.PUBLISH]

    assert Way(write, CACHED, WRITE).through_the_model(late_quarantine) == set()


# What each command makes of what a key holds.

ME: Final = 0
OTHER: Final = 1
MINE: Final = 5
TTL_MS: Final = 60_000

CONTENTS: Final = [
    ABSENT,
    *(Key(kind, owner) for kind in (LEASE, QUARANTINE) for owner in (ME, OTHER)),
    *(Key(VALUE, version) for version in (MINE - 1, MINE, MINE + 1)),
]

MY_LEASE, MY_QUARANTINE, MY_VALUE = map(to_redis, (Key(LEASE, ME), Key(QUARANTINE, ME), Key(VALUE, MINE)))

COMMANDS: Final[dict[Action, tuple[Callable[[Key], Key], Callable[[StateRegister, bytes], Awaitable[Any]]]]] = {
    Action.LEASE: (
        lambda key: PROTOCOL.lease(key, ME),
        lambda register, name: register.lease(name),
    ),
    Action.FILL: (
        lambda key: PROTOCOL.fill(key, ME, MINE),
        lambda register, name: register.fill(name, MY_LEASE, MY_VALUE, TTL_MS),
    ),
    Action.BEGIN: (
        lambda key: PROTOCOL.begin(key, ME),
        lambda register, name: register.begin_write({name: MY_QUARANTINE}),
    ),
    Action.PUBLISH: (
        lambda key: PROTOCOL.publish(key, ME, MINE),
        lambda register, name: register.publish([(name, MY_QUARANTINE, MY_VALUE, TTL_MS)]),
    ),
    Action.PUBLISH_NOTHING: (
        lambda key: PROTOCOL.publish_nothing(key, ME),
        lambda register, name: register.publish([(name, MY_QUARANTINE, None, TTL_MS)]),
    ),
    Action.ABORT: (
        lambda key: PROTOCOL.abort(key, ME),
        lambda register, name: register.abort({name: MY_QUARANTINE}),
    ),
    Action.INVALIDATE: (
        PROTOCOL.invalidate,
        lambda register, name: register.invalidate([name]),
    ),
}


@pytest.mark.parametrize("held", CONTENTS, ids=str)
@pytest.mark.parametrize("action", COMMANDS)
async def test_a_command_makes_of_a_key_what_the_model_says(action: Action, held: Key, redis: Redis) -> None:
    in_the_model, in_redis = COMMANDS[action]
    name = f"test-{uuid.uuid4()}".encode()
    await hold(redis, name, held)

    async with aclosing(StateRegister(redis)) as register:
        answer = await in_redis(register, name)

    left = await redis.get(name)
    assert (Key(LEASE, ME) if left is not None and left == answer else from_redis(left)) == in_the_model(held)
