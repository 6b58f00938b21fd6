"""One run: servers, proxies and clients up; faults; everything down; and then the judgement."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import asyncpg

from agent_persistence import Persistence, PersistenceSettings, migrate
from agent_persistence.embedded.server_user import server_user
from torture import clocks, hostile
from torture.calls import Caller
from torture.checker import Finding, check
from torture.faults import FAULTS, NEED_A_DISK, NEED_LIBFAKETIME, PROMOTION, Injector, World
from torture.fleet import Fleet
from torture.graphs import read_checkpoints
from torture.history import FORM, STREAM, History, Recorder, Tables, read_folder
from torture.limits import LIMITS
from torture.names import VARIABLE, Names
from torture.power import Seen, observations
from torture.proxy import Proxy, is_anything
from torture.roles import POOLED, address_of, grant_rights, roles
from torture.servers import PgBouncer, PostgreSQL, Server, Valkey, stop_all
from torture.staleness import SWEEP_BOUND, Staleness, find_stale_reads
from torture.workload import BESIDE, SHARED, UNCACHED, Workload, commits

PASSWORDLESS = "postgresql://postgres@"


@dataclass(frozen=True)
class Plan:
    """What a run is to be."""

    seconds: float
    seed: int
    clients: int
    faults: list[str]
    plants: tuple[str, ...] = ()


@dataclass
class Result:
    """What came of it.

    Attributes:
        folder: where the histories are, while they are kept.
        seconds: how long the clients worked.
        injected: how often each kind of fault took effect.
        seen: how much was seen of each guarantee.
        skipped: the faults and the clients that this machine does not permit.
    """

    plan: Plan
    folder: Path
    seconds: float
    injected: dict[str, int]
    history: History
    tables: Tables
    findings: list[Finding]
    staleness: Staleness
    seen: list[Seen] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def never_fired(self) -> list[str]:
        return [kind for kind, count in self.injected.items() if not count]

    @property
    def failed(self) -> bool:
        return bool(self.findings or self.never_fired or self.too_little or not self.history.calls)

    @property
    def too_little(self) -> list[str]:
        """What a whole run should have seen more of."""
        is_whole = not self.plan.plants and {*self.plan.faults} == {*FAULTS}
        return [f"{one.what}: {one.count} of {one.least}" for one in self.seen if is_whole and one.is_too_little]


async def run(plan: Plan) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="agent-persistence-torture-"))
    histories = folder / "histories"
    histories.mkdir()
    recorder = Recorder(histories, "injector")
    async with _world(plan, folder, histories, recorder) as world:
        start = time.monotonic()
        await world.fleet.start(plan.clients)
        skipped = _not_possible(world, plan.faults)
        injector = Injector(world, recorder, [kind for kind in plan.faults if kind not in skipped])
        await injector.run(plan.seconds)
        seconds = time.monotonic() - start
        await world.fleet.stop()
        tables = await _read_tables(world.primary)
        await _look_again(world, histories, plan.seed, tables)
        versions = await _versions(world)
    history = await asyncio.to_thread(read_folder, histories)
    history.commits_lost = world.commits_lost
    findings, staleness = check(history, tables), find_stale_reads(history)
    seen = observations(history, staleness)
    skipped += [] if PgBouncer.program else [POOLED]
    return Result(
        plan, histories, seconds, injector.injected, history, tables, findings, staleness, seen, skipped, versions
    )


def discard(result: Result) -> None:
    shutil.rmtree(result.folder.parent, ignore_errors=True)


def keep_tables(result: Result) -> None:
    """Put the tables beside the histories, so that a finding can be followed up."""
    tables = {"threads": result.tables.threads, "messages": result.tables.messages, "states": result.tables.states}
    tables |= {"checkpoints": result.tables.checkpoints}
    (result.folder / "tables.json").write_text(json.dumps(tables))


@asynccontextmanager
async def _world(plan: Plan, folder: Path, histories: Path, recorder: Recorder) -> AsyncIterator[World]:
    user, data = server_user(), folder / "servers"
    data.mkdir()
    primary, valkey = PostgreSQL(data, "primary", user), Valkey(data, "valkey", user)
    standby = PostgreSQL(data, "standby", user) if PROMOTION in plan.faults else None
    pooler = PgBouncer(data, "pooler", user) if PgBouncer.program else None
    if {*NEED_A_DISK} & {*plan.faults}:
        primary.mount()
    servers: list[Server] = [server for server in (primary, standby, valkey, pooler) if server is not None]
    async with AsyncExitStack() as ending:
        ending.push_async_callback(stop_all, servers, data)
        await _start_servers(primary, standby, valkey)
        to_primary, to_valkey = Proxy(primary.port, commits, "primary.torture"), Proxy(valkey.port, is_anything)
        to_standby = Proxy(standby.port, commits, "standby.torture") if standby is not None else None
        pooled, names = Proxy(to_primary, commits), Names(folder / "names.json")
        for proxy in (to_primary, to_standby, to_valkey, pooled):
            if proxy is not None:
                await proxy.listen()
                ending.callback(proxy.refuse)
        if pooler is not None:
            pooler.start(pooled.port)
            await pooler.answers()
        for named in (to_primary, to_standby):
            if named is not None:
                names.move(named.name, named.address)
        hosts = ",".join(f"{proxy.name}:{proxy.port}" for proxy in (to_primary, to_standby) if proxy is not None)
        environment = {**_environment(hosts, to_valkey.port), VARIABLE: str(names.file)}
        # Some planted defects are in the way to the database, which a pooler would be in.
        parts = roles(hosts, None if pooler is None or plan.plants else pooler.port)
        fleet = Fleet(histories, recorder, environment, parts, plan.seed, plan.plants)
        ending.callback(fleet.kill_all)
        await _make_content(primary, valkey)
        random = Random(plan.seed)
        yield World(primary, to_primary, valkey, to_valkey, fleet, random, pooled, names, standby, to_standby)


def _not_possible(world: World, faults: list[str]) -> list[str]:
    """The faults that need what this machine does not have."""
    missing = [] if world.primary.disk is not None else [*NEED_A_DISK]
    missing += [] if clocks.library() is not None else [*NEED_LIBFAKETIME]
    return [kind for kind in faults if kind in missing]


async def _start_servers(primary: PostgreSQL, standby: PostgreSQL | None, valkey: Valkey) -> None:
    valkey.start()
    await primary.create(standby=standby is not None)
    if standby is not None:
        await standby.clone(primary)
    await valkey.answers()


def _environment(hosts: str, valkey_port: int) -> dict[str, str]:
    return {
        "PERSISTENCE_DATABASE_URL": address_of("postgres", hosts),
        "PERSISTENCE_REDIS_URL": f"redis://127.0.0.1:{valkey_port}",
        "PERSISTENCE_CACHE_NAMESPACE": "torture",
        "PERSISTENCE_CACHE_SWEEP_INTERVAL": "1.0",
        "PERSISTENCE_RETRY_DEADLINE": str(LIMITS.retry_deadline),
        "PERSISTENCE_STATEMENT_TIMEOUT": str(LIMITS.statement_timeout),
    }


def _direct_settings(primary: PostgreSQL, valkey: Valkey) -> PersistenceSettings:
    return PersistenceSettings(
        _env_file=None,
        database_url=f"{PASSWORDLESS}127.0.0.1:{primary.port}/postgres",
        redis_url=f"redis://127.0.0.1:{valkey.port}",
        cache_namespace="torture",
    )


async def _make_content(primary: PostgreSQL, valkey: Valkey) -> None:
    settings = _direct_settings(primary, valkey)
    await migrate.upgrade(settings)
    await migrate.add_optional(settings, "row-level-security")
    await grant_rights(primary)
    async with Persistence[str, str](settings) as store:
        for thread, owner in (SHARED | BESIDE | UNCACHED).items():
            await store.threads.create(thread_id=thread, user_id=owner)
        await hostile.prepare(store)


async def _look_again(world: World, histories: Path, seed: int, tables: Tables) -> None:
    """When all is over, read every shared state and checkpoint: a value that is wrong at rest shows now."""
    async with Persistence[str, str](_direct_settings(world.primary, world.valkey)) as store:
        await asyncio.sleep(SWEEP_BOUND)
        tables.checkpoints = await read_checkpoints(store, tables.threads)
        random = Random(seed)
        workload = Workload(store, Caller(Recorder(histories, "auditor"), random), random)
        for thread in SHARED:
            await workload.get(thread)


async def _read_tables(primary: PostgreSQL) -> Tables:
    threads = await primary.fetch("SELECT thread_id, user_id FROM threads")
    messages = await primary.fetch("SELECT thread_id, seq, content FROM messages WHERE thread_id <> $1", hostile.THREAD)
    wanted = "thread_id, state_id, state_data, meta ->> 'token' AS token"
    states = await primary.fetch(f"SELECT {wanted} FROM state_versions")
    results = await primary.fetch("SELECT thread_id, tool_call_id, result FROM tool_results")
    return Tables(
        {row["thread_id"]: row["user_id"] for row in threads},
        [(row["thread_id"], row["seq"], row["content"]) for row in messages],
        [(row["thread_id"], row["state_id"], _data(row)) for row in states],
        {(row["thread_id"], row["tool_call_id"]): json.loads(row["result"]) for row in results},
    )


def _data(row: Any) -> Any:
    """The state of a row; of a stream, what its description says of its bytes."""
    data = json.loads(row["state_data"])
    return {"token": row["token"], "stream": data["sha256"]} if (row["token"] or "").endswith(FORM + STREAM) else data


async def _versions(world: World) -> dict[str, str]:
    [[postgresql]] = await world.primary.fetch("SHOW server_version")
    valkey: dict[str, Any] = await world.valkey.ask("INFO", "server")
    return {
        "PostgreSQL": postgresql.split()[0],
        "Valkey": str(valkey.get("valkey_version", valkey.get("redis_version"))),
        "asyncpg": asyncpg.__version__,
    }
