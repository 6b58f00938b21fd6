"""The figures as tables: for the terminal, and in Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.frameworks.stored import TITLE as STORED_TITLE
from benchmarks.growth import Growth
from benchmarks.plan import Cell
from benchmarks.pooling import TITLE as POOL_TITLE
from benchmarks.report import Report
from benchmarks.streaming import Streaming
from benchmarks.summary import Summary
from benchmarks.workloads import OBSERVING

HEADINGS = ("x floor", "rounds", "ops/s", "p50 ms", "p99 ms", "trips pg", "redis", "client us", "server us")
_GROWTH = ("steps", "s", "stored MB", "WAL MB", "first ms", "last ms", "last/first", "read ms", "versions equal")
OBSERVED_TITLE = "The client's microseconds an operation, and how many more than with counters only in the median round"
_CELL = ("workload", "states", "tasks", "contender")
_POOL = ("ops/s", "checkouts an op", "most in use", "p50 ms", "p99 ms", "alone ms")
_STORED = ("workloads", "contender", "stored MB")
WIDTH = 160

Rows = Iterator[list[str]]


def show(report: Report, console: Console) -> None:
    """Print what there is."""
    if report.summaries:
        console.print(_table([*_CELL, *HEADINGS], _rows(report), left=len(_CELL)))
    if observed := list(_observed_rows(report)):
        console.print(OBSERVED_TITLE)
        console.print(_table(_observed_headings(report), iter(observed), left=2))
    if report.growth:
        console.print("w6: a thread whose state gains a message of 1 KB a step")
        console.print(_table(["contender", *_GROWTH], _growth_rows(report), left=1))
    if report.imported:
        console.print(_import_line(report))
    if report.streamed:
        console.print(_stream_line(report.streamed))
    if report.pooled:
        console.print(POOL_TITLE)
        console.print(_table(["operation", *_POOL], _pool_rows(report), left=1))
    if report.stored:
        console.print(STORED_TITLE)
        console.print(_table(_STORED, _stored_rows(report), left=2))
    for absent in report.absent:
        console.print(f"absent: {absent}")


def markdown(report: Report) -> str:
    """Write the same as Markdown, with what it ran on and the command."""
    machine = ", ".join(f"{name} {value}" for name, value in report.machine.items())
    parts = [f"`{report.command}` on {machine}."]
    if report.summaries:
        parts.append(_markdown_table([*_CELL, *HEADINGS], _rows(report), left=len(_CELL)))
    if observed := list(_observed_rows(report)):
        parts += [f"{OBSERVED_TITLE}.", _markdown_table(_observed_headings(report), iter(observed), left=2)]
    if report.growth:
        parts.append(_markdown_table(["contender", *_GROWTH], _growth_rows(report), left=1))
    if report.imported:
        parts.append(_import_line(report))
    if report.streamed:
        parts.append(_stream_line(report.streamed))
    if report.pooled:
        parts += [f"{POOL_TITLE}.", _markdown_table(["operation", *_POOL], _pool_rows(report), left=1)]
    if report.stored:
        parts += [f"{STORED_TITLE}.", _markdown_table(_STORED, _stored_rows(report), left=2)]
    parts.append("\n".join(f"- {name}: {title}" for name, title in report.titles.items()))
    if report.absent:
        parts.append("Absent:\n\n" + "\n".join(f"- {absent}" for absent in report.absent))
    return "\n\n".join(parts) + "\n"


def _rows(report: Report) -> Rows:
    last = None
    for (cell, name), summary in report.in_order():
        same = cell == last
        yield [
            *(("", "", "") if same else (cell.workload.key, cell.size, str(cell.concurrency))),
            name,
            *_cells(summary),
        ]
        last = cell


def _cells(summary: Summary) -> list[str]:
    ratio = summary.ratio
    return [
        "" if ratio is None else f"{ratio.median:.2f}",
        "" if ratio is None else f"{ratio.least:.2f}-{ratio.greatest:.2f}",
        f"{summary.rate:,.0f}",
        f"{summary.p50:.2f}",
        f"{summary.p99:.2f}",
        "?" if summary.postgresql_trips is None else f"{summary.postgresql_trips:.2f}",
        "?" if summary.redis_trips is None else f"{summary.redis_trips:.2f}",
        f"{summary.client_cpu:,.0f}",
        f"{summary.server_cpu:,.0f}",
    ]


def _observed(report: Report) -> dict[Cell, dict[str, Summary]]:
    """Return what was found of each operation, in the order in which contenders have more to do."""
    cells = dict.fromkeys(cell for (cell, _), _ in report.in_order() if cell.workload in OBSERVING)
    return {
        cell: {name: report.summaries[cell, name] for name in report.titles if (cell, name) in report.summaries}
        for cell in cells
    }


def _observed_headings(report: Report) -> list[str]:
    return ["operation", "tasks", *dict.fromkeys(name for row in _observed(report).values() for name in row)]


def _observed_rows(report: Report) -> Rows:
    for cell, summaries in _observed(report).items():
        yield [cell.workload.title, str(cell.concurrency), *map(_observed_cell, summaries.values())]


def _observed_cell(summary: Summary) -> str:
    share = summary.client_share
    return f"{summary.client_cpu:.1f}" + (f" ({share.median - 1:+.1%})" if share else "")


def _growth_rows(report: Report) -> Rows:
    for name, growth in report.growth.items():
        yield [name, *_growth_cells(growth)]


def _growth_cells(growth: Growth) -> list[str]:
    return [
        f"{growth.steps:,}",
        f"{growth.seconds:.2f}",
        f"{growth.stored_mb:.1f}",
        f"{growth.wal_mb:.1f}",
        f"{growth.first_ms:.2f}",
        f"{growth.last_ms:.2f}",
        f"{growth.last_ms / growth.first_ms:.2f}",
        f"{growth.read_ms:.2f}",
        "no way to read" if growth.versions is None else f"{growth.versions:,} of {growth.steps:,}",
    ]


def _import_line(report: Report) -> str:
    found = report.imported
    if found is None:
        return ""
    return (
        f"w7: import of {found.messages:,} messages in {found.import_seconds:.1f} s, COPY of the same rows in "
        f"{found.copy_seconds:.2f} s: {found.ratio:.3f} of its rate; {found.peak_mb:.0f} MB of memory at most"
    )


def _stream_line(found: Streaming) -> str:
    return (
        f"w8: a state of {found.megabytes} MB in {found.in_seconds:.1f} s, out in {found.out_seconds:.1f} s, stored in "
        f"{found.stored_mb:.0f} MB; the same as rows by hand in {found.rows_in_seconds:.1f} s, out in "
        f"{found.rows_out_seconds:.1f} s"
    )


def _pool_rows(report: Report) -> Rows:
    for name, found in report.pooled.items():
        yield [
            name,
            f"{found.rate:,.0f}",
            f"{found.checkouts:.2f}",
            str(found.most_out),
            *[f"{milliseconds:.1f}" for milliseconds in (found.p50, found.p99, found.alone)],
        ]


def _stored_rows(report: Report) -> Rows:
    for one in report.stored:
        yield [one.workloads, one.contender, f"{one.megabytes:.2f}"]


def _table(headings: Sequence[str], rows: Rows, *, left: int) -> Table:
    table = Table(box=box.SIMPLE)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place < left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _markdown_table(headings: Sequence[str], rows: Rows, *, left: int) -> str:
    rule = ["---" if place < left else "--:" for place in range(len(headings))]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([*headings], rule, *rows))
