"""The figures as plots, PNG and SVG: throughput by concurrency, latency distribution, growth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import Report
from benchmarks.workload import SMALL, Workload
from benchmarks.workloads import STORES

_COLUMNS = 3
_TASKS = 32
_STYLE = {"svg.hashsalt": "agent-persistence", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}


def plot(report: Report, folder: Path) -> list[Path]:
    """Write the plots that there are figures for; return the files."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    with mpl.rc_context(_STYLE):
        if report.summaries:
            written += _save(_throughput(report), folder, "throughput")
            written += _save(_latency(report), folder, "latency")
        if report.growth:
            written += _save(_growth(report), folder, "growth")
    return written


def _throughput(report: Report) -> Any:
    figure, panels = _panels(_measured(report, at_least=2))
    for workload, axes in panels:
        for name in _names(report, workload):
            points = sorted(
                (cell.concurrency, summary.rate)
                for (cell, other), summary in report.summaries.items()
                if cell.workload.key == workload.key and cell.size == SMALL and other == name
            )
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, **_look(name))
        axes.set(title=f"{workload.key}: {workload.title}", xscale="log", xlabel="tasks", ylabel="operations a second")
        axes.set_ylim(0, axes.get_ylim()[1] * 1.05)
        tasks = sorted({cell.concurrency for cell, _ in report.summaries})
        axes.set_xticks(tasks, map(str, tasks))
        axes.minorticks_off()
    return _with_legend(figure)


def _latency(report: Report) -> Any:
    figure, panels = _panels(_measured(report, tasks=_TASKS))
    for workload, axes in panels:
        for (cell, name), summary in report.in_order():
            if cell.workload.key == workload.key and cell.size == SMALL and cell.concurrency == _TASKS:
                axes.plot(summary.percentiles, range(1, len(summary.percentiles) + 1), label=name, **_look(name))
        axes.set(
            title=f"{workload.key}: {workload.title}", xscale="log", xlabel="milliseconds", ylabel="% done by then"
        )
    return _with_legend(figure)


def _growth(report: Report) -> Any:
    figure, (left, right) = _pyplot().subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for name, growth in report.growth.items():
        steps, stored, saves = zip(*growth.curve, strict=True)
        left.plot(steps, stored, marker="o", markersize=3, label=name, **_look(name))
        right.plot(steps, saves, marker="o", markersize=3, label=name, **_look(name))
    left.set(title="stored", xlabel="steps", ylabel="MB", ylim=(0, None))
    right.set(title="a save", xlabel="steps", ylabel="milliseconds", ylim=(0, None))
    return _with_legend(figure)


def _measured(report: Report, *, at_least: int = 1, tasks: int | None = None) -> list[Workload]:
    """Return the workloads that were measured at so many concurrencies, or at this one."""
    found = defaultdict(set)
    for cell, _ in report.summaries:
        if cell.size == SMALL and tasks in {None, cell.concurrency}:
            found[cell.workload.key].add(cell.concurrency)
    return [workload for workload in STORES if len(found[workload.key]) >= at_least]


def _names(report: Report, workload: Workload) -> list[str]:
    return list(dict.fromkeys(name for (cell, name), _ in report.in_order() if cell.workload.key == workload.key))


def _panels(workloads: Sequence[Workload]) -> tuple[Any, list[tuple[Workload, Any]]]:
    rows = max(1, -(-len(workloads) // _COLUMNS))
    figure, axes = _pyplot().subplots(rows, _COLUMNS, figsize=(11, 2.9 * rows), layout="constrained", squeeze=False)
    for unused in axes.flat[len(workloads) :]:
        unused.set_axis_off()
    return figure, list(zip(workloads, axes.flat, strict=False))


def _look(name: str) -> dict[str, Any]:
    if name.startswith("ours"):
        return {"color": "#c2185b", "linewidth": 2.5, "zorder": 3, "linestyle": "--" if "uvloop" in name else "-"}
    if name.startswith("floor"):
        return {"color": "black", "linewidth": 1.5, "linestyle": "--" if "uvloop" in name else "-"}
    return {"linewidth": 1.2, "color": f"C{_color(name)}"}


def _color(name: str) -> int:
    """Return the same small number for the same name in every process."""
    return sum(name.encode()) % 10


def _with_legend(figure: Any) -> Any:
    shown = {label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=5, frameon=False)
    return figure


def _save(figure: Any, folder: Path, name: str) -> list[Path]:
    files = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(files[0], dpi=130, metadata={"Software": None})
    figure.savefig(files[1], metadata={"Date": None})
    _pyplot().close(figure)
    return files


def _pyplot() -> Any:
    from matplotlib import pyplot as plt  # noqa: PLC0415  # it chooses a backend when it is imported

    return plt
