"""Slices of several rounds as one figure with its spread."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from statistics import median, quantiles

from benchmarks.measure import Slice
from benchmarks.plan import Cell
from benchmarks.run import Results


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure against the floor's of the same round: the median, the least and the greatest of the rounds."""

    median: float
    least: float
    greatest: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What a contender did in a cell.

    Attributes:
        rate: operations a second, the median of the rounds.
        p50, p99: milliseconds, of all operations of all rounds.
        percentiles: milliseconds, the 1st to the 99th.
        postgresql_trips, redis_trips: writes to sockets, by operation; ``None`` where they cannot be counted.
        client_cpu, server_cpu: microseconds of processor time, by operation.
        client_share: the client's processor time against the floor's of the same round.
    """

    ratio: Ratio | None
    rate: float
    p50: float
    p99: float
    percentiles: list[float]
    postgresql_trips: float | None
    redis_trips: float | None
    client_cpu: float
    server_cpu: float
    client_share: Ratio | None = None


def summarise(results: Results, uncounted: Collection[str]) -> dict[tuple[Cell, str], Summary]:
    """Make one figure of each cell's rounds.

    Args:
        uncounted: names of contenders whose writes to sockets were not counted.
    """
    summaries = {}
    for (cell, name), slices in results.items():
        summary = _summary(slices, _floor(results, cell))
        if floor := results.get((cell, cell.workload.floor)):
            summary = replace(summary, client_share=_client_share(slices, floor))
        if name in uncounted:
            summary = replace(summary, postgresql_trips=None, redis_trips=None)
        summaries[cell, name] = summary
    return summaries


def _floor(results: Results, cell: Cell) -> list[float] | None:
    """Return the floor's rates; where it has several forms ("floor copy"), the fastest of each round."""
    floor = cell.workload.floor
    forms = [slices for (other, name), slices in results.items() if other == cell and name.split(" ")[0] == floor]
    return [max(one.rate for one in together) for together in zip(*forms, strict=True)] or None


def _summary(slices: list[Slice], floor: list[float] | None) -> Summary:
    latencies = [latency * 1000 for one in slices for latency in one.latencies]
    percentiles = quantiles(latencies, n=100, method="inclusive") if len(latencies) > 1 else latencies * 99
    count = len(latencies)
    return Summary(
        ratio=_ratio(slices, floor) if floor else None,
        rate=median(one.rate for one in slices),
        p50=percentiles[49],
        p99=percentiles[98],
        percentiles=percentiles,
        postgresql_trips=sum(one.writes.postgresql for one in slices) / count,
        redis_trips=sum(one.writes.redis for one in slices) / count,
        client_cpu=sum(one.client_cpu for one in slices) / count * 1e6,
        server_cpu=sum(one.server_cpu for one in slices) / count * 1e6,
    )


def _client_share(slices: list[Slice], floor: list[Slice]) -> Ratio:
    return _compared([_client_cpu(one) / _client_cpu(other) for one, other in zip(slices, floor, strict=True)])


def _client_cpu(one: Slice) -> float:
    return one.client_cpu / len(one.latencies)


def _ratio(slices: list[Slice], floor: list[float]) -> Ratio:
    return _compared([one.rate / other for one, other in zip(slices, floor, strict=True)])


def _compared(ratios: list[float]) -> Ratio:
    return Ratio(median(ratios), min(ratios), max(ratios))
