"""Spans lie in the traces of their callers, and a statement that is shared is linked to all of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import pytest_asyncio
from leaks import CANARY
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace import SpanKind, StatusCode

from agent_persistence import Persistence, PersistenceSettings, ThreadNotFoundError
from agent_persistence.integrations.opentelemetry import instrument

Store = Persistence[str, str]
Settings = Callable[..., Awaitable[PersistenceSettings]]
HELLO = {"role": "user", "content": CANARY}
CALLERS = 32
OPERATIONS = ("states.get", "cached states.get", "states.put", "messages.append")


class Traced:
    """A store whose spans and metrics a test can read."""

    def __init__(self, store: Store, sampler: Any = ALWAYS_ON) -> None:
        self.store = store
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider(sampler=ParentBased(sampler))
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("host")
        instrument(store, tracer_provider=provider, meter_provider=MeterProvider([self.reader]))

    async def in_a_trace(self, call: Callable[[], Awaitable[Any]]) -> int:
        """Make a call below a span of the host, and return the number of its trace."""
        with self.tracer.start_as_current_span("request") as span:
            await call()
        return span.get_span_context().trace_id

    def spans(self, kind: SpanKind) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.kind is kind and not of_host(span)]

    def values(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        found = [metric for scope in data.resource_metrics[0].scope_metrics for metric in scope.metrics]
        return [point for metric in found if metric.name == name for point in metric.data.data_points]


def of_host(span: ReadableSpan) -> bool:
    return span.name == "request"


def trace_of(span: ReadableSpan) -> int:
    return span.context.trace_id


@pytest_asyncio.fixture
async def eager_tasks() -> AsyncIterator[None]:
    """Tasks that start in the step that makes them, in the context of their maker."""
    loop = asyncio.get_running_loop()
    usual = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # since Python 3.12
    yield
    loop.set_task_factory(usual)


@pytest_asyncio.fixture
async def traced(settings_for: Settings) -> AsyncIterator[Traced]:
    async with Store(await settings_for(trace_ids="plain")) as store:
        yield Traced(store)


async def new_threads(store: Store, user_id: str) -> list[str]:
    return [(await store.threads.create(user_id=user_id)).thread_id for _ in range(CALLERS)]


def call_of(store: Store, operation: str, thread: str, user_id: str) -> Callable[[], Awaitable[Any]]:
    return {
        "states.get": lambda: store.states.get(thread, user_id=user_id, fresh=True),
        "cached states.get": lambda: store.states.get(thread, user_id=user_id),
        "states.put": lambda: store.states.put(thread, {CANARY: CANARY}, user_id=user_id),
        "messages.append": lambda: store.messages.append(thread, HELLO, user_id=user_id),
    }[operation]


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_shared_statement_is_linked_to_all_of_its_callers(traced: Traced, user_id: str, operation: str) -> None:
    threads = await new_threads(traced.store, user_id)
    for thread in threads:
        await traced.store.states.put(thread, {}, user_id=user_id)
    traced.exporter.clear()

    calls = [call_of(traced.store, operation, thread, user_id) for thread in threads]
    traces = await asyncio.gather(*map(traced.in_a_trace, calls))

    operations = traced.spans(SpanKind.INTERNAL)
    assert sorted(map(trace_of, operations)) == sorted(traces)
    assert {span.name for span in operations} == {f"agent_persistence.{operation.rsplit(maxsplit=1)[-1]}"}
    assert sorted(span.attributes["gen_ai.conversation.id"] for span in operations) == sorted(threads)

    calls_of_servers = traced.spans(SpanKind.CLIENT)
    shared = {span.attributes.get("db.query.summary", span.name) for span in calls_of_servers}
    assert len(calls_of_servers) < 6 * len(shared)
    linked = {link.context.span_id for span in calls_of_servers for link in span.links}
    below = {span.parent.span_id for span in calls_of_servers if span.parent is not None}
    assert linked | below == {span.context.span_id for span in operations}
    own = {span.context.span_id: trace_of(span) for span in operations}
    assert all(span.parent is None or own[span.parent.span_id] == trace_of(span) for span in calls_of_servers)
    assert all(
        span.attributes.get("db.operation.batch.size", 1) == max(len(span.links), 1) for span in calls_of_servers
    )


async def test_readers_of_one_state_share_a_load_that_is_linked_to_all_of_them(traced: Traced, user_id: str) -> None:
    [thread, *_] = await new_threads(traced.store, user_id)
    traced.exporter.clear()

    await asyncio.gather(
        *(traced.in_a_trace(call_of(traced.store, "cached states.get", thread, user_id)) for _ in range(CALLERS))
    )

    [statement] = [span for span in traced.spans(SpanKind.CLIENT) if span.name == "SELECT threads"]
    operations = traced.spans(SpanKind.INTERNAL)
    assert {link.context.span_id for link in statement.links} == {span.context.span_id for span in operations}
    assert all(span.attributes["agent_persistence.database.seconds"] > 0 for span in operations)


async def test_a_lone_call_has_its_statement_below_it(traced: Traced, user_id: str) -> None:
    thread = await traced.store.threads.create(user_id=user_id)
    traced.exporter.clear()

    trace = await traced.in_a_trace(lambda: traced.store.messages.append(thread.thread_id, HELLO, user_id=user_id))

    [operation], [statement] = traced.spans(SpanKind.INTERNAL), traced.spans(SpanKind.CLIENT)
    assert trace_of(operation) == trace_of(statement) == trace
    assert statement.parent.span_id == operation.context.span_id
    assert statement.name == "INSERT messages"
    assert statement.attributes["db.namespace"].startswith("test_")
    assert operation.attributes["agent_persistence.database.seconds"] > 0


async def test_a_cancelled_caller_has_a_span_that_ended(traced: Traced, user_id: str) -> None:
    threads = await new_threads(traced.store, user_id)
    traced.exporter.clear()

    calls = [traced.in_a_trace(call_of(traced.store, "states.put", thread, user_id)) for thread in threads]
    tasks = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

    operations = traced.spans(SpanKind.INTERNAL)
    assert len(operations) == CALLERS
    assert [span.attributes.get("error.type") for span in operations].count("CancelledError") == 1


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks need Python 3.12")
@pytest.mark.usefixtures("eager_tasks")
async def test_all_of_this_holds_for_tasks_that_start_at_once(traced: Traced, user_id: str) -> None:
    for operation in OPERATIONS:
        await test_a_shared_statement_is_linked_to_all_of_its_callers(traced, user_id, operation)
        traced.exporter.clear()
    await test_readers_of_one_state_share_a_load_that_is_linked_to_all_of_them(traced, user_id)
    traced.exporter.clear()
    await test_a_cancelled_caller_has_a_span_that_ended(traced, user_id)


async def test_a_call_whose_trace_is_not_sampled_has_no_span(settings_for: Settings, user_id: str) -> None:
    async with Store(await settings_for()) as store:
        traced = Traced(store, ALWAYS_OFF)
        thread = await store.threads.create(user_id=user_id)
        await traced.in_a_trace(lambda: store.messages.append(thread.thread_id, HELLO, user_id=user_id))

    assert traced.exporter.get_finished_spans() == ()


async def test_an_error_is_recorded_by_its_class_alone(traced: Traced, user_id: str) -> None:
    with suppress(ThreadNotFoundError):
        await traced.store.messages.append("no thread", HELLO, user_id=user_id)

    [span] = [span for span in traced.spans(SpanKind.INTERNAL) if span.name.endswith("append")]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "ThreadNotFoundError"
    assert not span.events


async def test_statements_of_a_unit_of_work_are_below_it(traced: Traced, user_id: str) -> None:
    async with traced.store.begin(user_id=user_id) as uow:
        thread = await uow.threads.create()
        await uow.messages.append(thread.thread_id, HELLO)

    [block] = [span for span in traced.spans(SpanKind.INTERNAL) if span.name == "agent_persistence.begin"]
    below = [span.name for span in traced.spans(SpanKind.CLIENT) if span.parent.span_id == block.context.span_id]
    assert below == ["BEGIN", "INSERT threads", "INSERT messages", "COMMIT"]


async def test_statements_in_a_session_of_the_host_are_below_the_call(traced: Traced, user_id: str) -> None:
    async with traced.store.begin(user_id=user_id) as uow:
        _ = uow.session  # from now on by SQLAlchemy
        await uow.threads.create()

    names = [span.name for span in traced.spans(SpanKind.CLIENT)]
    assert names == ["INSERT threads"]


async def test_metrics_are_those_of_the_snapshot(traced: Traced, user_id: str) -> None:
    thread = await traced.store.threads.create(user_id=user_id)
    await traced.store.states.put(thread.thread_id, {CANARY: CANARY}, user_id=user_id)
    await traced.store.states.get(thread.thread_id, user_id=user_id)

    hits = {point.attributes["result"]: point.value for point in traced.values("agent_persistence.cache.lookups")}
    durations = traced.values("agent_persistence.operation.duration")

    assert hits["hit"] == 1
    assert {point.attributes["operation"]: point.count for point in durations} == {
        "threads.create": 1,
        "states.put": 1,
        "states.get": 1,
    }
    assert durations[0].explicit_bounds[0] == 0.0001


async def test_no_span_and_no_metric_holds_what_was_said(traced: Traced, user_id: str) -> None:
    store = traced.store
    thread = await store.threads.create(user_id=user_id, name=CANARY, meta={CANARY: CANARY})
    for operation in ("states.put", "messages.append", "states.get", "cached states.get"):
        await call_of(store, operation, thread.thread_id, user_id)()
    await store.messages.page(thread.thread_id, user_id=user_id, search=CANARY)

    told = "".join(span.to_json() for span in traced.exporter.get_finished_spans())
    told += traced.reader.get_metrics_data().to_json()

    assert "states.put" in told
    assert CANARY not in told
    assert user_id not in told
