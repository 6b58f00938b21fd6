"""Each alert fires when what it is about happens to real servers, and no alert fires while nothing is wrong.

What happens is staged once, between two scrapes. Prometheus's own tool then judges the rules on a scrape that repeats
the first one, and afterwards goes on as the second one began.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import pytest
import pytest_asyncio
from debian.debian_redis import RedisServer
from hardening.hardening_servers import REPLY_LOST, LossyProxy, migrated_settings, settings_of
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from torture.servers import PostgreSQL

from agent_persistence import CommitUnknownError, Persistence, PersistenceError, PersistenceSettings, UnavailableError
from agent_persistence.degraded import DegradedMode
from agent_persistence.integrations.prometheus import PersistenceCollector
from promtool import ALERTS, firing, has_promtool

pytestmark = pytest.mark.slow

Store = Persistence[str, str]
Labels = tuple[tuple[str, str], ...]
Series = dict[tuple[str, Labels], float]
Stage = Callable[["World"], Awaitable[None]]
CALM, GOING_ON = 20, 400
"""So many scrapes before it happens, and so many while it goes on."""
SCRAPE, END = "15s", "100m"
TWO_DAYS = 2 * 86_400.0
PURGE_END = "agent_persistence_purge_last_end_seconds"


class World:
    """A store on servers that may be ill-treated, and what Prometheus would scrape."""

    def __init__(self, store: Store, direct: str, proxy: LossyProxy, valkey: RedisServer, user_id: str) -> None:
        self._direct = direct
        self.store, self.proxy, self.valkey, self.user_id = store, proxy, valkey, user_id
        self.ending = AsyncExitStack()
        self._registry = CollectorRegistry()
        self._registry.register(PersistenceCollector(store))
        self.thread_id = ""

    async def work(self) -> None:
        """What an application does all day."""
        thread = await self.store.threads.create(user_id=self.user_id)
        self.thread_id = thread.thread_id
        for number in range(5):
            await self.store.messages.append(thread.thread_id, {"role": "user", "content": "x"}, user_id=self.user_id)
            await self.store.states.put(thread.thread_id, {"n": number}, user_id=self.user_id)
            await self.store.states.get(thread.thread_id, user_id=self.user_id)
        with suppress(PersistenceError):
            await self.store.states.put(thread.thread_id, {}, user_id=self.user_id, expected_version=1)
        await self.store.purge(keep_last=2)
        await self.store.audit_cache()

    async def execute(self, statement: str) -> None:
        """What another program does, past the proxy."""
        connection = await asyncpg.connect(self._direct)
        await connection.execute(statement)
        await connection.close()

    def scrape(self) -> Series:
        families = text_string_to_metric_families(generate_latest(self._registry).decode())
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


@asynccontextmanager
async def a_world(postgresql: PostgreSQL, valkey: RedisServer, user_id: str, **limits: Any) -> AsyncIterator[World]:
    async with LossyProxy(postgresql) as proxy:
        direct = await migrated_settings(postgresql)
        assert direct.database is not None
        settings: PersistenceSettings = settings_of(
            proxy.port,
            str(direct.database.sqlalchemy_url.database),
            **{"redis_url": valkey.unix_url, **CACHE, **limits},
        )
        async with Store(settings) as store:
            address = f"postgresql://postgres@127.0.0.1:{postgresql.port}/{store.engine.url.database}"
            world = World(store, address, proxy, valkey, user_id)
            async with world.ending:
                await world.work()
                await world.work()
                yield world
            await proxy.come_back()


# --- what happens ---


async def nothing_happens(world: World) -> None:
    await world.work()


async def the_database_goes_away(world: World) -> None:
    world.proxy.go_away()
    for _ in range(3):
        with suppress(PersistenceError):
            await world.store.threads.get(world.thread_id, user_id=world.user_id)


async def another_transaction_holds_a_row(world: World) -> None:
    async with world.store.begin(user_id=world.user_id) as holder:
        await holder.threads.update(world.thread_id, name="held")
        waiting = asyncio.create_task(world.store.states.put(world.thread_id, {}, user_id=world.user_id))
        await asyncio.sleep(1.1)
    await waiting


async def units_of_work_stay_open(world: World) -> None:
    for _ in range(world.store.metrics().pool.most):
        uow = await world.ending.enter_async_context(world.store.begin(user_id=world.user_id))
        await uow.threads.get(world.thread_id)
    waiting = asyncio.create_task(world.store.threads.get(world.thread_id, user_id=world.user_id))
    world.ending.push_async_callback(asyncio.gather, waiting, return_exceptions=True)
    await asyncio.sleep(0.05)


async def the_database_dies_in_the_middle_of_a_commit(world: World) -> None:
    async with world.proxy.losing_a_commit(REPLY_LOST, then_away=True):
        with suppress(CommitUnknownError):
            for _ in range(20):
                with suppress(UnavailableError):  # a busy machine takes longer than the limit before it comes to COMMIT
                    await world.store.threads.create(user_id=world.user_id)


async def many_attempts_fail(world: World) -> None:
    async def write(uow: Any) -> None:
        await uow.threads.create()

    world.proxy.go_away()
    works = [world.store.run(write, user_id=world.user_id) for _ in range(15)]
    await asyncio.gather(*works, return_exceptions=True)


async def redis_dies(world: World) -> None:
    world.valkey.kill()
    for _ in range(3):
        await world.store.states.get(world.thread_id, user_id=world.user_id)
    world.ending.callback(world.valkey.start)


async def another_program_writes_the_tables(world: World) -> None:
    await world.store.states.get(world.thread_id, user_id=world.user_id)
    await world.execute("DELETE FROM states")
    await world.store.audit_cache()


async def purges_stop(world: World) -> None:
    """Two days pass."""


async def states_stay_in_memory(world: World) -> None:
    mode = await world.ending.enter_async_context(DegradedMode(world.store, check_seconds=0.05))
    world.ending.push_async_callback(mode.until_over)
    world.ending.push_async_callback(world.proxy.come_back)
    world.proxy.go_away()
    await mode.checkpointer(world.user_id).save_state(world.thread_id, "kept")


async def another_process_overtakes_states_in_memory(world: World) -> None:
    """The database refuses them when it is back."""
    mode = await world.ending.enter_async_context(DegradedMode(world.store, check_seconds=0.05))
    ada = mode.checkpointer(world.user_id)
    first = await ada.save_state(world.thread_id, "first")
    world.proxy.go_away()
    await ada.save_state(world.thread_id, "kept", expected_version=first.version)
    await world.proxy.come_back()
    await world.execute("DELETE FROM states")
    await mode.until_over()
    world.ending.callback(mode.forget_unsaved)


CACHE = {"cache_timeout_ms": 50, "cache_budget_ms": 100, "cache_sweep_interval": 0.2}
QUICK = {"retry_deadline": 0.1, "connect_timeout": 0.4, "pool_timeout": 0.6}
STAGES: dict[str, tuple[Stage, dict[str, Any]]] = {
    "AgentPersistenceErrors": (the_database_goes_away, QUICK),
    "AgentPersistenceSlow": (another_transaction_holds_a_row, {}),
    "AgentPersistenceWaitsForConnections": (
        units_of_work_stay_open,
        {"pool_size": 2, "max_overflow": 0, "pool_timeout": 0.6},
    ),
    "AgentPersistenceCommitUnknown": (the_database_dies_in_the_middle_of_a_commit, QUICK),
    "AgentPersistenceRetries": (many_attempts_fail, {**QUICK, "retry_deadline": 2.0}),
    "AgentPersistenceCacheDown": (redis_dies, {}),
    "AgentPersistenceStaleCache": (another_program_writes_the_tables, {}),
    "AgentPersistencePurgeStopped": (purges_stop, {}),
    "AgentPersistenceDegraded": (states_stay_in_memory, QUICK),
    "AgentPersistenceUnsavedStates": (another_process_overtakes_states_in_memory, QUICK),
}
WITHOUT_A_DATABASE = (
    "AgentPersistenceCommitUnknown",
    "AgentPersistenceRetries",
    "AgentPersistenceDegraded",
    "AgentPersistenceUnsavedStates",
)
"""Calls fail then as well, which is an alert of its own."""


# --- what Prometheus says ---


class Staged(NamedTuple):
    """Two scrapes, and how old the times in them are to be."""

    before: Series
    after: Series
    seconds_ago: float


_staged: dict[str, Staged] = {}


@pytest_asyncio.fixture
async def staged(request: pytest.FixtureRequest, postgresql: PostgreSQL, valkey: RedisServer, user_id: str) -> Staged:
    """What an alert is about happens once, for all tests of it."""
    alert = request.param
    if alert not in _staged:
        stage, limits = STAGES.get(alert, (nothing_happens, {}))
        async with a_world(postgresql, valkey, user_id, **limits) as world:
            before = world.scrape()
            await stage(world)
            _staged[alert] = Staged(before, world.scrape(), TWO_DAYS if stage is purges_stop else 0.0)
    return _staged[alert]


def course(staged: Staged, key: tuple[str, Labels]) -> str:
    """The values of a series, scrape by scrape: as it was, and then as it goes on."""
    name, before, after = key[0], staged.before.get(key), staged.after[key]
    first = "_" if before is None else str(before)
    if not name.endswith(("_total", "_bucket", "_sum", "_count")) or name == "db_client_connection_count":
        return f"{first}x{CALM} {after}x{GOING_ON}"
    return f"{first}x{CALM} {after}{after - (before or 0.0):+}x{GOING_ON}"


def courses(staged: Staged) -> list[dict[str, str]]:
    now = time.time() + staged.seconds_ago  # the tool's clock begins at 0
    moved = {
        name: {key: value - now for key, value in found.items() if key[0] == PURGE_END}
        for name, found in (("before", staged.before), ("after", staged.after))
    }
    staged = staged._replace(before=staged.before | moved["before"], after=staged.after | moved["after"])
    return [{"series": written(key), "values": course(staged, key)} for key in staged.after]


def written(key: tuple[str, Labels]) -> str:
    labels = {**dict(key[1]), "job": "agents", "instance": "agents-1:8000"}
    return f"{key[0]}{{{','.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


def expression(alert: str) -> str:
    found = re.search(rf"alert: {alert}\n +expr: (.+?)\n +(?:for|labels):", ALERTS.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def test_every_alert_is_staged() -> None:
    assert [*STAGES] == re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("staged", STAGES, indirect=True)
async def test_what_an_alert_is_about_moves_the_metrics_that_it_reads(staged: Staged, request: Any) -> None:
    read = set(re.findall(r"\b((?:agent_persistence|db_client)_\w+)\b[{\[)]", expression(request.node.callspec.id)))
    moved = {key[0] for key, value in staged.after.items() if staged.before.get(key, 0.0) != value}

    assert read
    assert read <= moved or (staged.seconds_ago and read == {PURGE_END})


@has_promtool
@pytest.mark.needs_apt
@pytest.mark.parametrize("staged", STAGES, indirect=True)
async def test_an_alert_fires_when_it_should(staged: Staged, request: Any, tmp_path: Path) -> None:
    alert = request.node.callspec.id

    alerts = {alert, "AgentPersistenceErrors"} if alert in WITHOUT_A_DATABASE else {alert}
    firing(courses(staged), at=END, every=SCRAPE, alerts=alerts, folder=tmp_path)


@has_promtool
@pytest.mark.needs_apt
@pytest.mark.parametrize("staged", ["nothing"], indirect=True)
async def test_no_alert_fires_while_nothing_is_wrong(staged: Staged, tmp_path: Path) -> None:
    firing(courses(staged), at=END, every=SCRAPE, alerts=set(), folder=tmp_path)
