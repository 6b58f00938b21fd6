"""OpenTelemetry: metrics and spans of a store, by the API only; the application brings the SDK and its exporters.

    instrument(persistence)

uses the global providers. A statement that serves several callers is one span, with a link to the span of each of them:
below the span of one caller it would be missing from the traces of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from agent_persistence.errors import MissingExtraError
from agent_persistence.persistence import Persistence
from agent_persistence.telemetry.histogram import Distribution, NamedHistogram
from agent_persistence.telemetry.names import FAMILIES, Family
from agent_persistence.telemetry.samples import samples
from agent_persistence.telemetry.spans import Attribute, Span

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
except ImportError as error:
    raise MissingExtraError("opentelemetry") from error

__all__ = ["instrument"]

_SCOPE: Final = "agent_persistence"
_POSTGRESQL: Final = "postgresql"


def instrument(
    persistence: Persistence[Any, Any],
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> None:
    """Export metrics and spans of a store. It measures durations from now on.

    No attribute holds contents or the id of a user; ``PERSISTENCE_TRACE_IDS`` says whether a span shows its thread's.

    Args:
        persistence: the store; call this once for each.
        tracer_provider: makes the tracer; the global one if left out.
        meter_provider: makes the meter; the global one if left out.
    """
    timing = persistence.measure()
    _export_metrics(persistence, metrics.get_meter(_SCOPE, meter_provider=meter_provider))
    timing.tracer = _Tracer(trace.get_tracer(_SCOPE, tracer_provider=tracer_provider), _server_of(persistence))


def _export_metrics(persistence: Persistence[Any, Any], meter: metrics.Meter) -> None:
    families = {family.name: family for family in FAMILIES}
    for family in FAMILIES:
        observe = [partial(_observations, persistence, family.name)]
        if family.kind == "counter":
            meter.create_observable_counter(family.name, observe, family.unit, family.description)
        elif family.kind == "gauge":
            meter.create_observable_gauge(family.name, observe, family.unit, family.description)
    # The API has no histogram that is observed: its values are handed over as they come.
    made: dict[str, metrics.Histogram] = {}

    def hand_over(named: NamedHistogram) -> None:
        if named.name not in made:
            made[named.name] = _histogram(meter, families[named.name], named.histogram.bounds)
        attributes = {name: value for name, value in named.attributes.items() if value}
        named.histogram.sink = partial(made[named.name].record, attributes=attributes)

    persistence.telemetry.counts.histograms.listen(hand_over)


def _histogram(meter: metrics.Meter, family: Family, bounds: Sequence[float]) -> metrics.Histogram:
    return meter.create_histogram(
        family.name, family.unit, family.description, explicit_bucket_boundaries_advisory=bounds
    )


def _observations(
    persistence: Persistence[Any, Any], name: str, _options: metrics.CallbackOptions
) -> Iterator[metrics.Observation]:
    for sample in samples(persistence.metrics()):
        if sample.name == name and not isinstance(sample.value, Distribution):
            yield metrics.Observation(sample.value, dict(sample.attributes))


def _server_of(persistence: Persistence[Any, Any]) -> dict[str, Attribute]:
    url = persistence.engine.url
    known = {"db.namespace": url.database, "server.address": url.host, "server.port": url.port}
    return {name: value for name, value in known.items() if value is not None}


class _Tracer:
    """Begins spans by the API."""

    def __init__(self, tracer: trace.Tracer, server: Mapping[str, Attribute]) -> None:
        self._tracer = tracer
        self._server = server

    def operation(self, name: str) -> _Span | None:
        caller = trace.get_current_span()
        # Asked first: a span that is not sampled costs as much to begin as one that is.
        if caller.get_span_context().is_valid and not caller.is_recording():
            return None
        return _recorded(self._tracer.start_span(name))

    def call(self, name: str, callers: Sequence[Span], attributes: dict[str, Attribute]) -> _Span | None:
        spans = [caller.span for caller in callers if isinstance(caller, _Span)]
        if attributes["db.system.name"] == _POSTGRESQL:
            attributes |= self._server
        begin: Callable[..., trace.Span] = partial(self._tracer.start_span, name, kind=trace.SpanKind.CLIENT)
        if len(spans) == 1:
            return _recorded(begin(context=trace.set_span_in_context(spans[0], Context()), attributes=attributes))
        links = [trace.Link(span.get_span_context()) for span in spans]
        return _recorded(begin(context=Context(), attributes=attributes, links=links))


class _Span:
    """A span of the API that is recorded."""

    def __init__(self, span: trace.Span) -> None:
        self.span = span

    def set(self, name: str, value: Attribute) -> None:
        self.span.set_attribute(name, value)

    def end(self, error_type: str) -> None:
        if error_type:
            self.span.set_attribute("error.type", error_type)
            self.span.set_status(trace.StatusCode.ERROR)
        self.span.end()


def _recorded(span: trace.Span) -> _Span | None:
    return _Span(span) if span.is_recording() else None
