"""Durations and spans, of OpenTelemetry's SDK with an exporter that drops them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from typing_extensions import override

from agent_persistence.integrations.opentelemetry import instrument
from benchmarks.contender import Addresses
from benchmarks.observing.durations import Counters


class _Dropping(SpanExporter):
    @override
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Unsampled(Counters):
    """The sampler is asked for each call, and takes none."""

    name: ClassVar[str] = "unsampled"
    label: ClassVar[str] = "spans, not sampled"
    share: ClassVar[float] = 0.0

    @override
    async def open(self, addresses: Addresses) -> None:
        await super().open(addresses)
        self._shutdowns: list[Callable[[], object]] = []
        for store in (self.plain, self.cached):
            tracers = TracerProvider(sampler=sampling.TraceIdRatioBased(self.share), shutdown_on_exit=False)
            tracers.add_span_processor(SimpleSpanProcessor(_Dropping()))
            meters = MeterProvider([InMemoryMetricReader()], shutdown_on_exit=False)
            self._shutdowns += [tracers.shutdown, meters.shutdown]
            instrument(store, tracer_provider=tracers, meter_provider=meters)

    @override
    async def close(self) -> None:
        await super().close()
        for shut_down in self._shutdowns:
            shut_down()


class Recorded(Unsampled):
    """Every span is recorded."""

    name: ClassVar[str] = "recorded"
    label: ClassVar[str] = "every span recorded"
    share: ClassVar[float] = 1.0
