"""With everything switched on, nothing tells what people said, who they are, or a password: one test for all of it.

A writer or an error path that is new has to be added here: what was called is compared with what there is.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from integration.database.test_leaks import META, PROVOKED, SECRET, Spoiled
from integrations.langgraph.checkpoints import config_of, put
from leaks import CANARY, with_password
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from agent_persistence import ItemKey, NewItem, NewMessage, NewThread, Persistence, PersistenceError
from agent_persistence.degraded import DegradedMode
from agent_persistence.integrations.fastapi import install
from agent_persistence.integrations.langgraph import PersistenceSaver
from agent_persistence.integrations.opentelemetry import instrument
from agent_persistence.integrations.prometheus import PersistenceCollector

Store = Persistence[str, str]

OWNER = "owner-canary-4712"
GROUPS = ("threads", "messages", "states", "entities", "checkpoints", "tool_results", "items")
NEW = NewMessage(message=SECRET, meta=META, usages=META)


class Observed(Spoiled):
    """Stores of a spoiled database that export everything, and all that they told."""

    def __init__(self, url: str, redis_url: str) -> None:
        super().__init__(url, redis_url, metrics=True, slow_operation_ms=0.001, trace_ids="plain")
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self._tracers = TracerProvider()
        self._tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._meters = MeterProvider([self._reader])
        self._registries: list[CollectorRegistry] = []
        self.stores: list[Store] = []

    async def another(self, **changes: Any) -> Store:
        store = await super().another(**changes)
        instrument(store, tracer_provider=self._tracers, meter_provider=self._meters)
        self._registries.append(CollectorRegistry())
        self._registries[-1].register(PersistenceCollector(store))
        self.stores.append(store)
        return store

    def told(self) -> dict[str, str]:
        """What an operator may read of it."""
        return {
            "spans": "\n".join(span.to_json() for span in self._exporter.get_finished_spans()),
            "metrics of OpenTelemetry": str(self._reader.get_metrics_data().to_json()),
            "metrics of Prometheus": "\n".join(generate_latest(one).decode() for one in self._registries),
            "snapshots": "\n".join(repr(store.metrics()) for store in self.stores),
        }


@pytest_asyncio.fixture
async def observed(servers: Any, make_database: Callable[[], Awaitable[str]]) -> AsyncIterator[Observed]:
    made = Observed(with_password(await make_database()), servers.redis_url)
    sql_log = logging.getLogger("sqlalchemy.engine")
    usual_level = sql_log.level
    await made.open()
    yield made
    await made.close()
    sql_log.setLevel(usual_level)


async def stream() -> AsyncIterator[bytes]:
    for _ in range(3):
        yield CANARY.encode() * 1_000


async def write_everything(store: Store, names: str) -> None:
    """Every call of the public API, each with the canary wherever contents go."""
    threads, messages, states, entities = store.threads, store.messages, store.states, store.entities
    thread = (await threads.create(user_id=OWNER, name=f"{names} 1", meta=META)).thread_id
    new = NewThread(name=f"{names} 2", meta=META, messages=[NEW], states=[META])
    [many] = await threads.create_many([new], user_id=OWNER)
    await threads.update(thread, name=f"{names} 3", meta=META, user_id=OWNER)
    await threads.get(thread, user_id=OWNER)
    await threads.require(thread, user_id=OWNER)
    await threads.page(search=CANARY, meta=META, user_id=OWNER)
    await threads.archive(thread, user_id=OWNER)
    await threads.unarchive(thread, user_id=OWNER)
    message = await messages.append(thread, NEW, user_id=OWNER)
    await messages.append_many(thread, [NEW] * 300, user_id=OWNER)
    await messages.update(thread, message.message_id, message=SECRET, usages=META, meta=META, user_id=OWNER)
    await messages.get(thread, message.message_id, user_id=OWNER)
    await messages.require(thread, message.message_id, user_id=OWNER)
    await messages.page(thread, search=CANARY, user_id=OWNER)
    await messages.delete(thread, message.message_id, user_id=OWNER)
    await messages.pop(thread, user_id=OWNER)
    await messages.clear((await threads.create(user_id=OWNER)).thread_id, user_id=OWNER)
    for length in (1, 1_000, 1_001):  # whole, and as a change
        state = await states.put(thread, [CANARY] * length, meta=META, user_id=OWNER)
    await states.put_stream(thread, stream(), meta=META, user_id=OWNER)
    await states.get(thread, user_id=OWNER)
    await states.get(thread, user_id=OWNER, fresh=True)
    await states.require(thread, user_id=OWNER)
    await states.get_version(thread, state.version, user_id=OWNER)
    await states.page(thread, user_id=OWNER)
    await states.touch(thread, user_id=OWNER)
    await states.prune(thread, keep_last=2, user_id=OWNER)
    await entities.get_thread(thread, user_id=OWNER)
    await entities.get_last_messages(thread, user_id=OWNER)
    await entities.get_latest_state(thread, user_id=OWNER)
    await store.tool_results.record(thread, CANARY, META, user_id=OWNER)
    await store.tool_results.get(thread, CANARY, user_id=OWNER)
    item = NewItem(namespace=(CANARY,), key=CANARY, value=META, ttl=60)
    await store.items.put_many([item], user_id=OWNER)
    await store.items.get_many([ItemKey((CANARY,), CANARY)], refresh=True, user_id=OWNER)
    await store.items.search((CANARY,), filter=META, user_id=OWNER)
    await store.items.namespaces((CANARY,), user_id=OWNER)
    await store.items.delete_many([ItemKey((CANARY,), CANARY)], user_id=OWNER)
    await store.items.clear(user_id=OWNER)
    async with store.begin(user_id=OWNER) as uow:
        uow.session.add(store.models.Thread(user_id=OWNER, thread_name=f"{names} 4", meta=META))
        await uow.session.flush()
        await uow.states.put(thread, META)
    await store.run(lambda uow: uow.messages.append(thread, NEW), user_id=OWNER)
    await states.clear(thread, user_id=OWNER)
    await threads.delete(many, user_id=OWNER)


async def run_graphs(store: Store) -> None:
    """Every call that graphs and agents make."""
    saver, config = PersistenceSaver(store, user_id=OWNER), config_of("a graph", run_id="run")
    child = await put(saver, config, {"notes": [CANARY], CANARY: CANARY}, metadata={CANARY: CANARY, "run_id": "run"})
    await saver.aput_writes(child, [("notes", CANARY)], "task")
    await saver.aget_tuple(child)
    assert [one async for one in saver.alist(config)]
    await saver.aget_delta_channel_history(config=child, channels=["notes"])
    await saver.acopy_thread("a graph", "a copy")
    await saver.aprune(["a graph"])
    await saver.aprune(["a copy"], strategy="delete")
    await saver.adelete_for_runs(["run"])
    await saver.adelete_thread("a graph")

    async def never() -> Any:
        raise AssertionError

    thread = NewThread(thread_id="a turn", name=f"{CANARY} turn", meta=META)
    await store.checkpoints.put_turn(thread, META, [NEW], user_id=OWNER, expected_version=None, alone=never)


async def answer_requests(at: Observed) -> None:
    """Errors in a web application, whose bodies hold the canary."""
    app = FastAPI()
    install(app, lambda: at.store)
    provoked = dict(enumerate(PROVOKED.values()))

    @app.post("/{number}")
    async def provoke(number: int) -> None:
        await provoked[number].how(at)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    app.state.agent_persistence = at.store
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for name in ("a constraint", "a unique index", "another version"):
            await client.post(f"/{[*PROVOKED].index(name)}", json=META)


async def stay_in_memory(at: Observed) -> None:
    """States of an outage, which are lost with the process."""
    away = await at.another(database_url=f"postgresql://ann:{CANARY}@127.0.0.1:1/db", checkpointer_cleanup_timeout=0.2)
    with suppress(PersistenceError):
        async with DegradedMode(away) as mode:
            await mode.checkpointer(OWNER).save_state("a thread", META)
            assert away.metrics().degraded is not None


async def go_without_redis(at: Observed) -> None:
    store = await at.another(redis_url=f"redis://:{CANARY}@127.0.0.1:1/0")
    for _ in range(5):
        await store.states.put(at.thread_id, META, user_id="ann")
        await store.states.get(at.thread_id, user_id="ann")
    await store.audit_cache()


async def test_nothing_tells_what_was_said_or_a_password(observed: Observed, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        await write_everything(observed.store, f"{CANARY} with SQL in the log")
        logging.getLogger("sqlalchemy.engine").setLevel(logging.WARNING)  # from now on past SQLAlchemy
        await write_everything(observed.store, CANARY)
        await run_graphs(observed.store)
        await answer_requests(observed)
        await stay_in_memory(observed)
        await go_without_redis(observed)
        for provoked in PROVOKED.values():
            with pytest.raises(provoked.kind):
                await provoked.how(observed)

    told = observed.told()
    told["log"] = caplog.text
    told["fields of the log"] = "\n".join(str(vars(record)) for record in caplog.records if is_ours(record))
    assert {name for name, text in told.items() if CANARY in text} == set()
    assert {name for name, text in told.items() if OWNER in text} == set()

    metrics = [store.metrics() for store in observed.stores]
    called = {key.operation for found in metrics for key in found.operations}
    assert called >= {*calls_of(observed.store), "begin", "run"}
    raised = {key.error_type for found in metrics for key in found.operations}
    assert raised >= {"UniqueConflictError", "DatabaseError", "StateConflictError", "UnavailableError"}
    events = {vars(record)["event_name"] for record in caplog.records if hasattr(record, "event_name")}
    assert events >= {"operation.slow", "commit.settled", "cache.unavailable", "degraded.began", "http.failed"}


def is_ours(record: logging.LogRecord) -> bool:
    return record.name.startswith("agent_persistence")


def calls_of(store: Store) -> set[str]:
    """All public calls that are measured."""
    return {
        f"{group}.{name}"
        for group in GROUPS
        for name, call in inspect.getmembers(type(getattr(store, group)), inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
