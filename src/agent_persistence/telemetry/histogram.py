"""Histograms with fixed buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# OpenTelemetry's convention for durations of database calls, and two smaller ones: without these, every cache hit and
# every short statement would be in the first bucket. They stay as they are: dashboards are built on them.
SECONDS: Final = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
ITEMS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
AGES: Final = (0.5, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 1800.0)  # in seconds


@dataclass(frozen=True, slots=True)
class Distribution:
    """A snapshot of a histogram.

    Attributes:
        bounds: the upper bounds of the buckets, inclusive; one more bucket holds what is larger.
        counts: the number of values in each bucket, not cumulative.
        total: the sum of the values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)


class Histogram:
    """Counts values by bucket. Without a lock: it belongs to one event loop, and other threads only read it.

    Attributes:
        sink: called with each value, for an exporter that keeps histograms itself; ``None`` if there is none.
    """

    __slots__ = ("bounds", "counts", "sink", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.sink: Callable[[float], None] | None = None

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value
        if self.sink is not None:
            self.sink(value)

    def add_all(self, values: Sequence[float]) -> None:
        """Count several values, at least one."""
        first = bisect_left(self.bounds, min(values))
        if self.sink is None and first == bisect_left(self.bounds, max(values)):
            # Most batches: all their calls waited about as long.
            self.counts[first] += len(values)
            self.total += sum(values)
            return
        for value in values:
            self.add(value)

    def snapshot(self) -> Distribution:
        """Return the present counts."""
        return Distribution(self.bounds, tuple(self.counts), self.total)


@dataclass(frozen=True, slots=True)
class NamedHistogram:
    """A histogram with the name and the attributes of its metric."""

    name: str
    attributes: Mapping[str, str]
    histogram: Histogram


Listener = Callable[[NamedHistogram], None]


class Histograms:
    """The histograms of one store, some of which are made when their first value comes."""

    def __init__(self) -> None:
        self._made: list[NamedHistogram] = []
        self._listeners: list[Listener] = []

    def make(self, name: str, bounds: tuple[float, ...], attributes: Mapping[str, str]) -> Histogram:
        """Make a histogram of a metric."""
        made = NamedHistogram(name, attributes, Histogram(bounds))
        self._made.append(made)
        for listener in self._listeners:
            listener(made)
        return made.histogram

    def listen(self, listener: Listener) -> None:
        """Call a function with each histogram: those that exist, now, and each later one when it is made."""
        self._listeners.append(listener)
        for made in self._made:
            listener(made)
