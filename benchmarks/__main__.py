"""Measure this package beside hand-written asyncpg and redis-py, and beside other stores.

python -m benchmarks --quick
python -m benchmarks --only w2a --contenders ours --concurrency 1,32
"""

from __future__ import annotations

import logging
import signal
import sys
import time
import warnings

from rich.console import Console

from benchmarks import writes
from benchmarks.options import Outputs, read_options
from benchmarks.report import Report
from benchmarks.session import Session
from benchmarks.table import WIDTH, markdown, show

_console = Console(width=None if sys.stdout.isatty() else WIDTH)


def main() -> int:
    """Run what the options say."""
    plan, outputs = read_options(sys.argv[1:])
    started = time.monotonic()
    warnings.simplefilter("ignore")  # other people's libraries warn of each other
    logging.disable(logging.WARNING)
    writes.start_counting()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the servers are to be stopped then, too
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    report = Session(plan, command, lambda text: _console.print(f"{time.monotonic() - started:4.0f} s  {text}")).run()
    show(report, _console)
    _write(report, outputs)
    _console.print(f"{time.monotonic() - started:.0f} s in all")
    return 0


def _write(report: Report, outputs: Outputs) -> None:
    report.write_json(outputs.json)
    written = [outputs.json]
    if outputs.markdown is not None:
        outputs.markdown.write_text(markdown(report))
        written.append(outputs.markdown)
    if outputs.plots is not None:
        try:
            from benchmarks.plots import plot  # noqa: PLC0415  # matplotlib is not needed for anything else
        except ImportError:
            _console.print("absent: matplotlib, so there are no plots")
        else:
            written += plot(report, outputs.plots)
    _console.print("written:", *(file.name for file in written))


if __name__ == "__main__":
    sys.exit(main())
