"""Beside the instrumentations of SQLAlchemy, asyncpg, Redis and FastAPI, our spans stay what and where they are."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import httpx
import pytest
import pytest_asyncio
from fastapi import Depends, FastAPI
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from agent_persistence import Persistence, PersistenceSettings
from agent_persistence.integrations.fastapi import get_persistence, install
from agent_persistence.integrations.opentelemetry import instrument

REASON = "needs the instrumentations of OpenTelemetry: pip install 'agent-persistence[test]'"
asyncpg = pytest.importorskip("opentelemetry.instrumentation.asyncpg", reason=REASON)
fastapi = pytest.importorskip("opentelemetry.instrumentation.fastapi", reason=REASON)
redis = pytest.importorskip("opentelemetry.instrumentation.redis", reason=REASON)
sqlalchemy = pytest.importorskip("opentelemetry.instrumentation.sqlalchemy", reason=REASON)

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Store = Persistence[str, str]
Settings = Callable[..., Awaitable[PersistenceSettings]]
PersistenceDep = Annotated[Store, Depends(get_persistence)]
OURS, HOST = "agent_persistence", "opentelemetry.instrumentation.fastapi"
REQUESTS = 8


class Served:
    """An application, its answers and its spans."""

    def __init__(self, client: httpx.AsyncClient, exporter: InMemorySpanExporter) -> None:
        self._client, self._exporter = client, exporter

    async def conversation(self, user_id: str) -> list[Any]:
        """Requests, some of them at once, and what they answer."""
        made = (await self._client.post(f"/{user_id}/threads")).json()
        path = f"/{user_id}/threads/{made}"
        one_after_another = [(await self._client.post(path)).json() for _ in range(2)]
        at_once = await asyncio.gather(*(self._client.get(path) for _ in range(REQUESTS)))
        return [*one_after_another, *(answer.json() for answer in at_once)]

    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def of(self, scope: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.instrumentation_scope.name == scope]


def application(store: Store) -> FastAPI:
    app = FastAPI()
    install(app, lambda: store)

    @app.post("/{user_id}/threads")
    async def create(user_id: str, persistence: PersistenceDep) -> str:
        return (await persistence.threads.create(user_id=user_id)).thread_id

    @app.post("/{user_id}/threads/{thread_id}")
    async def say(user_id: str, thread_id: str, persistence: PersistenceDep) -> bool:
        state = await persistence.states.put(thread_id, {"said": "x"}, user_id=user_id)
        async with persistence.begin(user_id=user_id) as uow:
            message = await uow.messages.append(thread_id, {"role": "user", "content": "x"})
        return message.content == "x" and state.version > 0

    @app.get("/{user_id}/threads/{thread_id}")
    async def read(user_id: str, thread_id: str, persistence: PersistenceDep) -> Any:
        state = await persistence.states.get(thread_id, user_id=user_id)
        page = await persistence.messages.page(thread_id, user_id=user_id)
        return [state and state.data, [message.content for message in page]]

    return app


@pytest_asyncio.fixture(params=["alone", "beside"])
async def served(request: pytest.FixtureRequest, settings_for: Settings) -> AsyncIterator[Served]:
    """The application with our spans alone, below those of FastAPI, or with all others beside them."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    others = [asyncpg.AsyncPGInstrumentor(), redis.RedisInstrumentor()] if request.param == "beside" else []
    async with Store(await settings_for()) as store:
        app = application(store)
        fastapi.FastAPIInstrumentor.instrument_app(app, tracer_provider=provider, exclude_spans=["receive", "send"])
        for other in others:
            other.instrument(tracer_provider=provider)
        if others:  # it declares that it does not know the newest SQLAlchemy, whose events are the same
            sqlalchemy.SQLAlchemyInstrumentor().instrument(
                engine=store.engine.sync_engine, tracer_provider=provider, skip_dep_check=True
            )
        instrument(store, tracer_provider=provider)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            app.state.agent_persistence = store
            yield Served(client, exporter)
        if others:
            sqlalchemy.SQLAlchemyInstrumentor().uninstrument()
        for other in others:
            other.uninstrument()


async def test_our_spans_are_the_same_below_the_requests(served: Served, user_id: str) -> None:
    answers = await served.conversation(user_id)

    assert answers == [True, True, *[[{"said": "x"}, ["x", "x"]]] * REQUESTS]
    operations = [span for span in served.of(OURS) if span.kind is SpanKind.INTERNAL]
    assert Counter(span.name.removeprefix("agent_persistence.") for span in operations) == {
        "threads.create": 1,
        "states.put": 2,
        "begin": 2,
        "states.get": REQUESTS,
        "messages.page": REQUESTS,
    }
    requests = {span.context.span_id: span for span in served.of(HOST) if span.kind is SpanKind.SERVER}
    assert len(requests) == 3 + REQUESTS
    for span in operations:
        assert span.parent is not None
        assert requests[span.parent.span_id].context.trace_id == span.context.trace_id


async def test_our_statements_hang_below_our_operations_alone(served: Served, user_id: str) -> None:
    await served.conversation(user_id)

    operations = {span.context.span_id: span for span in served.of(OURS) if span.kind is SpanKind.INTERNAL}
    statements = [span for span in served.of(OURS) if span.kind is SpanKind.CLIENT]
    inserted = [span for span in statements if span.name == "INSERT messages"]
    assert len(inserted) == 2
    for span in statements:
        callers = [link.context.span_id for link in span.links] or [span.parent.span_id]
        assert {*callers} <= operations.keys()
        assert span.end_time is not None


async def test_no_span_hangs_below_one_that_never_ended(served: Served, user_id: str) -> None:
    await served.conversation(user_id)

    ended = {span.context.span_id for span in served.spans()}
    lost = [span.name for span in served.spans() if span.parent is not None and span.parent.span_id not in ended]
    assert lost == []
