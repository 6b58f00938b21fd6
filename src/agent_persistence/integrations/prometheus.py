"""Prometheus: the metrics of a store for ``prometheus_client``.

    REGISTRY.register(PersistenceCollector(persistence))

A scrape reads counters in memory; it asks no server. A collector reports its own process: with several worker processes
behind one port, export by OpenTelemetry instead, or give each worker a port.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from agent_persistence.errors import MissingExtraError
from agent_persistence.persistence import Persistence
from agent_persistence.telemetry.histogram import Distribution
from agent_persistence.telemetry.names import FAMILIES, Family
from agent_persistence.telemetry.samples import Sample, samples

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.registry import Collector
    from prometheus_client.utils import floatToGoString
except ImportError as error:
    raise MissingExtraError("prometheus") from error

__all__ = ["PersistenceCollector", "prometheus_name"]

_UNITS: Final = {"s": "seconds", "By": "bytes"}


class PersistenceCollector(Collector):
    """A collector of ``prometheus_client``; it switches the durations on.

    Args:
        persistence: the store.
    """

    def __init__(self, persistence: Persistence[Any, Any]) -> None:
        self._persistence = persistence
        persistence.measure()

    def collect(self) -> Iterator[Metric]:
        """Yield the present values."""
        found: dict[str, list[Sample]] = {family.name: [] for family in FAMILIES}
        for sample in samples(self._persistence.metrics()):
            found[sample.name].append(sample)
        for family in FAMILIES:
            yield _metric(family, found[family.name])

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics without values, for a registry that compares names."""
        for family in FAMILIES:
            yield _metric(family, [])


def prometheus_name(family: Family) -> str:
    """Return the name of a metric in Prometheus, as OpenTelemetry translates it, without the ``_total`` of counters."""
    name, unit = family.name.replace(".", "_"), _UNITS.get(family.unit, "")
    return name if name.endswith(unit) else f"{name}_{unit}"


def _metric(family: Family, found: list[Sample]) -> Metric:
    name, labels = prometheus_name(family), [_label(attribute) for attribute in family.attributes]
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(name, family.description, labels=labels)
        for sample in found:
            if isinstance(sample.value, Distribution) and sample.value.count:  # an empty one is fourteen lines of zeros
                histogram.add_metric(_values(family, sample), _buckets(sample.value), sample.value.total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(name, family.description, labels=labels)
    for sample in found:
        if not isinstance(sample.value, Distribution):
            metric.add_metric(_values(family, sample), sample.value)
    return metric


def _values(family: Family, sample: Sample) -> list[str]:
    return [sample.attributes[attribute] for attribute in family.attributes]


def _label(attribute: str) -> str:
    return attribute.replace(".", "_")


def _buckets(found: Distribution) -> list[tuple[str, float]]:
    bounds = [*map(floatToGoString, found.bounds), "+Inf"]
    return list(zip(bounds, itertools.accumulate(found.counts), strict=True))
