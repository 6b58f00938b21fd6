"""The faults, one at a time: each is injected, waited out until what it hit is well again, and written down."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from torture import clocks
from torture.fleet import Fleet
from torture.history import SECOND, Recorder
from torture.limits import (
    BLACK_HOLE,
    CLOCK,
    COMMITS_SWALLOWED,
    DISK_FULL,
    HOLE_SECONDS,
    HOLES,
    REPLIES_LOST,
    REQUESTS_LOST,
)
from torture.names import ADDRESSES, Names
from torture.proxy import Proxy
from torture.servers import NOBODYS_PORT, PostgreSQL, Valkey
from torture.staleness import CUT_SHORT, REDIS_CLOCK

TRIES = 10
QUIET_SECONDS = 0.3
BREAKER_SECONDS = 0.3
BREAKER_FACTOR = 1.2
"""A client that found Redis away asks again at the latest after as long as it was away, give or take a fifth."""
CLIENT_BACKENDS = "FROM pg_stat_activity WHERE backend_type = 'client backend' AND application_name <> 'torture'"


@dataclass
class World:
    """What can be ill-treated.

    Attributes:
        primary, to_primary: the server that takes writes, and the proxy before it.
        standby, to_standby: the one that will be promoted; ``None`` where there is none, or not any more.
        former, to_former: the primary from before the promotion, while it is away.
        pooled: the proxy between a pooler and ``to_primary``.
        names: of the hosts; the first is that of the first primary.
        commits_lost: how many replies to COMMIT were swallowed.
    """

    primary: PostgreSQL
    to_primary: Proxy
    valkey: Valkey
    to_valkey: Proxy
    fleet: Fleet
    random: Random
    pooled: Proxy
    names: Names
    standby: PostgreSQL | None = None
    to_standby: Proxy | None = None
    former: PostgreSQL | None = None
    to_former: Proxy | None = None
    commits_lost: int = 0

    async def wait_briefly(self, shortest: float = 0.2, longest: float = 0.7) -> None:
        await asyncio.sleep(self.random.uniform(shortest, longest))


async def restart_postgresql(world: World) -> bool:
    world.to_primary.refuse()
    await world.primary.end(signal.SIGQUIT)  # what pg_ctl restart -m immediate does
    world.primary.start()
    await world.to_primary.listen()
    await world.primary.answers()
    return True


async def terminate_backends(world: World) -> bool:
    victims = await world.primary.fetch(f"SELECT pg_terminate_backend(pid) {CLIENT_BACKENDS} ORDER BY random() LIMIT 5")
    return bool(victims)


async def kill_backend(world: World) -> bool:
    """The postmaster ends all others as well, and recovers as after a crash."""
    witness = await world.primary.connect()
    [victim] = await witness.fetch(f"SELECT pid {CLIENT_BACKENDS} ORDER BY state = 'idle', random() LIMIT 1")
    os.kill(victim["pid"], signal.SIGKILL)
    async with asyncio.timeout(5):
        while not witness.is_closed():  # noqa: ASYNC110 - another's connection sets no event of ours
            await asyncio.sleep(0.01)
    await world.primary.answers()
    return True


async def lose_commit_replies(world: World) -> bool:
    lost = sum([await world.to_primary.lose_a_reply(within_seconds=1.0) for _ in range(8)])
    world.commits_lost += lost
    return lost > 0


async def swallow_commit_replies(world: World) -> bool:
    """The connection stays open, and silent."""
    lost = sum([await world.to_primary.lose_a_reply(within_seconds=1.0, silently=True) for _ in range(2)])
    world.commits_lost += lost
    return lost > 0


async def cut_postgresql(world: World) -> bool:
    return world.to_primary.cut() > 0


async def stall_postgresql(world: World) -> bool:
    world.to_primary.stall()
    await world.wait_briefly()
    world.to_primary.flow()
    return True


async def open_a_black_hole(world: World) -> bool:
    """For longer than any call may take, nothing passes, on new connections neither."""
    world.to_primary.stall()
    await asyncio.sleep(HOLE_SECONDS)
    world.to_primary.flow()
    return True


async def lose_requests(world: World) -> bool:
    world.to_primary.forget()
    return True


async def lose_replies(world: World) -> bool:
    world.to_primary.deafen()
    return True


async def slow_down(world: World) -> bool:
    world.to_primary.delay_seconds = 0.2
    await world.wait_briefly(0.8, 1.2)
    world.to_primary.delay_seconds = 0.0
    return True


async def drip(world: World) -> bool:
    world.to_primary.drips = True
    await world.wait_briefly(0.5, 0.8)
    world.to_primary.drips = False
    return True


async def delay_standby(world: World) -> bool:
    """Each COMMIT waits for a standby that does nothing for a while."""
    if world.standby is None:
        return False
    world.standby.signal_family(signal.SIGSTOP)
    await world.wait_briefly(0.6, 1.0)
    world.standby.signal_family(signal.SIGCONT)
    return True


async def fill_the_disk(world: World) -> bool:
    """Leave no room to the primary, which may end for want of it; then give it room, and start it if it ended."""
    disk = world.primary.disk
    if disk is None or not disk.fill():
        return False
    await world.wait_briefly(0.8, 1.2)
    disk.empty()
    await asyncio.sleep(0.3)
    if world.primary.process is not None and world.primary.process.poll() is not None:
        world.primary.start()
    await world.primary.answers()
    return True


async def lose_power(world: World) -> bool:
    """The primary's machine dies, and what was not synced is not on its disk when it comes back."""
    primary, disk = world.primary, world.primary.disk
    if disk is None:
        return False
    world.to_primary.refuse()
    disk.lose_power()
    primary.signal_family(signal.SIGKILL)
    await primary.end(signal.SIGKILL)
    await asyncio.to_thread(disk.unmount)
    if not disk.mount():
        raise RuntimeError("the disk of the primary cannot be mounted again")
    primary.start()
    await world.to_primary.listen()
    await primary.answers()
    return True


async def set_postgresql_clock(world: World) -> bool:
    return await _set_clock(world, world.primary)


async def set_redis_clock(world: World) -> bool:
    return await _set_clock(world, world.valkey)


async def _set_clock(world: World, server: PostgreSQL | Valkey) -> bool:
    """Put a server's clock wrong, and right again; it looks once a second."""
    if clocks.library() is None:
        return False
    clocks.set_clock(server.cage, world.random.choice(clocks.JUMPS))
    await world.wait_briefly(1.3, 1.7)
    clocks.set_clock(server.cage, 0)
    await asyncio.sleep(1.1)
    return True


async def set_client_clocks(world: World) -> bool:
    world.fleet.order(f"clock {world.random.choice(clocks.JUMPS)}")
    await world.wait_briefly(0.5, 1.0)
    world.fleet.order("clock 0")
    return True


async def move_name(world: World) -> bool:
    """The name of the primary leads to another address, and nobody answers at the old one."""
    [address] = {*ADDRESSES} - {world.to_primary.address}
    await world.to_primary.move(address)
    await world.wait_briefly(0.2, 0.4)  # until then the name leads to where nobody is any more
    world.names.move(world.to_primary.name, address)
    return True


async def promote(world: World) -> bool:
    """The primary dies and stays away; the standby takes over."""
    if world.standby is None or world.to_standby is None:
        return False
    world.to_primary.refuse()
    await world.primary.end(signal.SIGQUIT)
    await world.standby.fetch("SELECT pg_promote()")
    world.former, world.to_former = world.primary, world.to_primary
    world.primary, world.to_primary = world.standby, world.to_standby
    world.standby = world.to_standby = None
    world.pooled.lead_to(world.to_primary)
    return True


async def return_former_primary(world: World) -> bool:
    """The old primary comes back with its old data, as the first host in the address; fenced, it takes no writes."""
    if world.former is None or world.to_former is None:
        return False
    world.former.fence()
    world.former.start()
    await world.to_former.listen()
    await world.former.answers()
    world.to_primary.cut()  # so that clients choose among the hosts again
    await world.wait_briefly()
    return True


async def kill_redis(world: World) -> bool:
    await world.valkey.end(signal.SIGKILL)
    await world.wait_briefly()
    world.valkey.start()
    await world.valkey.answers()
    return True


async def cut_redis_short(world: World) -> bool:
    """It writes its data to a file, dies, loses the end of the file, and starts with the rest."""
    await world.valkey.keep_data()
    await world.wait_briefly(0.5, 0.8)
    await world.valkey.end(signal.SIGKILL)
    is_shorter = world.valkey.shorten_data(by=world.random.uniform(0.1, 0.5))
    world.valkey.start(with_data=True)
    await world.valkey.answers()
    return is_shorter


async def hang_redis(world: World) -> bool:
    world.valkey.signal(signal.SIGSTOP)
    await world.wait_briefly(2.2, 2.6)
    world.valkey.signal(signal.SIGCONT)
    await world.valkey.answers()
    return True


async def flush_redis(world: World) -> bool:
    return bool(await world.valkey.ask("DBSIZE") and await world.valkey.ask("FLUSHALL"))


async def fill_redis(world: World) -> bool:
    await world.valkey.ask("CONFIG", "SET", "maxmemory-policy", "noeviction", "maxmemory", 1)
    await world.wait_briefly()
    await world.valkey.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru", "maxmemory", "64mb")
    return True


async def cut_redis(world: World) -> bool:
    return world.to_valkey.cut() > 0


async def lose_redis_replies(world: World) -> bool:
    return any([await world.to_valkey.lose_a_reply(within_seconds=0.3) for _ in range(3)])


async def make_redis_a_replica(world: World) -> bool:
    """It answers reads with what it has, and refuses writes."""
    await world.valkey.ask("REPLICAOF", "127.0.0.1", NOBODYS_PORT)
    await world.wait_briefly()
    await world.valkey.ask("REPLICAOF", "NO", "ONE")
    return True


async def kill_client(world: World) -> bool:
    place = await world.fleet.kill_one(world.random)
    await world.fleet.start_one(place)
    return True


async def cancel_calls(world: World) -> bool:
    world.fleet.order("cancel 0.3")
    await world.wait_briefly(0.5, 1.0)
    world.fleet.order("cancel 0")
    return True


PROMOTION = "postgresql promotion"
RETURN = "postgresql old primary returns"
LAGGING = "postgresql standby lags"
POWER_LOSS = "postgresql power loss"
BEFORE_THE_PROMOTION = (LAGGING, DISK_FULL, POWER_LOSS)
NEED_A_DISK = (DISK_FULL, POWER_LOSS)
NEED_LIBFAKETIME = (CLOCK, REDIS_CLOCK)
FAULTS: dict[str, Callable[[World], Awaitable[bool]]] = {
    "postgresql restart -m immediate": restart_postgresql,
    "postgresql backends terminated": terminate_backends,
    "postgresql backend kill -9": kill_backend,
    "postgresql COMMIT replies lost": lose_commit_replies,
    "postgresql connections cut": cut_postgresql,
    "postgresql stalled": stall_postgresql,
    BLACK_HOLE: open_a_black_hole,
    REQUESTS_LOST: lose_requests,
    REPLIES_LOST: lose_replies,
    COMMITS_SWALLOWED: swallow_commit_replies,
    "postgresql 200 ms away": slow_down,
    "postgresql drips": drip,
    LAGGING: delay_standby,
    DISK_FULL: fill_the_disk,
    POWER_LOSS: lose_power,
    CLOCK: set_postgresql_clock,
    "postgresql name moves": move_name,
    PROMOTION: promote,
    RETURN: return_former_primary,
    "redis kill -9": kill_redis,
    CUT_SHORT: cut_redis_short,
    "redis hung": hang_redis,
    "redis FLUSHALL": flush_redis,
    "redis memory full": fill_redis,
    "redis connections cut": cut_redis,
    "redis replies lost": lose_redis_replies,
    "redis READONLY": make_redis_a_replica,
    REDIS_CLOCK: set_redis_clock,
    "client kill -9": kill_client,
    "client calls cancelled": cancel_calls,
    "client clocks jump": set_client_clocks,
}


class Injector:
    """Injects faults in a seeded order: every kind before any comes again, the promotion once, in the middle."""

    def __init__(self, world: World, recorder: Recorder, kinds: list[str]) -> None:
        self._world = world
        self._recorder = recorder
        self._kinds = kinds
        self._queue: list[str] = []
        self.injected: Counter[str] = Counter(dict.fromkeys(kinds, 0))

    async def run(self, seconds: float) -> None:
        """Go on for so long, but at least until every kind had its turn."""
        start = time.monotonic()
        has_standby = PROMOTION in self._kinds
        due = [kind for kind in self._kinds if kind not in (PROMOTION, RETURN)]
        # What needs a standby, or the disk of the first primary, comes before the promotion.
        early = [kind for kind in due if kind in BEFORE_THE_PROMOTION]
        self._queue = self._world.random.sample(due, len(due))
        # Silences come last: they excuse errors for as long as a call may take.
        self._queue.sort(key=lambda kind: (kind in early, kind not in HOLES))
        missing = {*due}
        while (elapsed := time.monotonic() - start) < seconds or missing:
            if has_standby and elapsed > seconds / 2 and not {*early} & {*self._queue}:
                has_standby = False
                await self._inject(PROMOTION)
                await self._inject(RETURN)
                due = [kind for kind in due if kind not in early]
            elif due:
                kind = self._next(due)
                await self._inject(kind)
                missing.discard(kind)
            else:
                await self._world.wait_briefly()

    async def _inject(self, kind: str) -> None:
        start = time.monotonic_ns()
        fired = await self._fire(kind)
        self._recorder.write("fault", kind=kind, start=start, fired=fired)
        self.injected[kind] += fired
        if kind.startswith("redis"):
            await asyncio.sleep(BREAKER_SECONDS + BREAKER_FACTOR * (time.monotonic_ns() - start) / SECOND)
        await self._world.wait_briefly(QUIET_SECONDS, QUIET_SECONDS + 0.2)

    async def _fire(self, kind: str) -> bool:
        """Inject a fault, again while it finds nothing to hit: after a fault, clients avoid Redis for a while."""
        for _ in range(TRIES):
            if await FAULTS[kind](self._world):
                return True
            await self._world.wait_briefly()
        return False

    def _next(self, kinds: list[str]) -> str:
        if not self._queue:
            self._queue = self._world.random.sample(kinds, len(kinds))
        return self._queue.pop()
