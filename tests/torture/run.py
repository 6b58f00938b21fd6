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
from torture import hostile
from torture.checker import Finding, check
from torture.faults import FAULTS, PROMOTION, Injector, World
from torture.fleet import Fleet
from torture.history import FORM, STREAM, History, Recorder, Tables, read_folder
from torture.limits import DISK_FULL, LIMITS
from torture.power import Seen, observations
from torture.proxy import Proxy, is_anything, is_commit
from torture.servers import PostgreSQL, Valkey, stop_all
from torture.staleness import SWEEP_BOUND, Staleness, find_stale_reads
from torture.workload import SHARED, Workload

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
        skipped: the faults that this machine does not permit.
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
        skipped = [] if world.has_disk else [kind for kind in plan.faults if kind == DISK_FULL]
        injector = Injector(world, recorder, [kind for kind in plan.faults if kind not in skipped])
        await injector.run(plan.seconds)
        seconds = time.monotonic() - start
        await world.fleet.stop()
        await _look_again(world, histories, plan.seed)
        tables = await _read_tables(world.primary)
        versions = await _versions(world)
    history = await asyncio.to_thread(read_folder, histories)
    findings, staleness = check(history, tables), find_stale_reads(history)
    seen = observations(history, staleness, world.commits_lost)
    return Result(
        plan, histories, seconds, injector.injected, history, tables, findings, staleness, seen, skipped, versions
    )


def discard(result: Result) -> None:
    shutil.rmtree(result.folder.parent, ignore_errors=True)


def keep_tables(result: Result) -> None:
    """Put the tables beside the histories, so that a finding can be followed up."""
    tables = {"threads": result.tables.threads, "messages": result.tables.messages, "states": result.tables.states}
    (result.folder / "tables.json").write_text(json.dumps(tables))


@asynccontextmanager
async def _world(plan: Plan, folder: Path, histories: Path, recorder: Recorder) -> AsyncIterator[World]:
    user, data = server_user(), folder / "servers"
    data.mkdir()
    primary, valkey = PostgreSQL(data, "primary", user), Valkey(data, "valkey", user)
    standby = PostgreSQL(data, "standby", user) if PROMOTION in plan.faults else None
    has_disk = DISK_FULL in plan.faults and primary.mount()
    servers = [server for server in (primary, standby, valkey) if server is not None]
    async with AsyncExitStack() as ending:
        ending.push_async_callback(stop_all, servers, data)
        await _start_servers(primary, standby, valkey)
        to_primary, to_valkey = Proxy(primary.port, is_commit), Proxy(valkey.port, is_anything)
        to_standby = Proxy(standby.port, is_commit) if standby is not None else None
        proxies = [proxy for proxy in (to_primary, to_standby, to_valkey) if proxy is not None]
        for proxy in proxies:
            await proxy.listen()
            ending.callback(proxy.refuse)
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies if proxy is not to_valkey)
        fleet = Fleet(histories, recorder, _environment(hosts, to_valkey.port), plan.seed, plan.plants)
        ending.callback(fleet.kill_all)
        await _make_content(primary, valkey)
        random = Random(plan.seed)
        yield World(primary, to_primary, valkey, to_valkey, fleet, random, standby, to_standby, has_disk=has_disk)


async def _start_servers(primary: PostgreSQL, standby: PostgreSQL | None, valkey: Valkey) -> None:
    valkey.start()
    await primary.create(standby=standby is not None)
    if standby is not None:
        await standby.clone(primary)
    await valkey.answers()


def _environment(hosts: str, valkey_port: int) -> dict[str, str]:
    return {
        "PERSISTENCE_DATABASE_URL": f"{PASSWORDLESS}{hosts}/postgres?target_session_attrs=primary",
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
    async with Persistence[str, str](settings) as store:
        for thread, owner in SHARED.items():
            await store.threads.create(thread_id=thread, user_id=owner)
        await hostile.prepare(store)


async def _look_again(world: World, histories: Path, seed: int) -> None:
    """When all is over, read every shared state once more: a value that is wrong at rest shows now."""
    async with Persistence[str, str](_direct_settings(world.primary, world.valkey)) as store:
        await asyncio.sleep(SWEEP_BOUND)
        workload = Workload(store, Recorder(histories, "auditor"), Random(seed))
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
    return {"token": row["token"], "stream": data["sha256"]} if row["token"].endswith(FORM + STREAM) else data


async def _versions(world: World) -> dict[str, str]:
    [[postgresql]] = await world.primary.fetch("SHOW server_version")
    valkey: dict[str, Any] = await world.valkey.ask("INFO", "server")
    return {
        "PostgreSQL": postgresql.split()[0],
        "Valkey": str(valkey.get("valkey_version", valkey.get("redis_version"))),
        "asyncpg": asyncpg.__version__,
    }
