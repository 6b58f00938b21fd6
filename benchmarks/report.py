"""All that a run found, as one value: for the JSON file, for tables and for plots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmarks.frameworks.stored import Stored
from benchmarks.growth import Growth
from benchmarks.importing import Import
from benchmarks.plan import Cell
from benchmarks.pooling import Pooling
from benchmarks.samples import SIZES
from benchmarks.streaming import Streaming
from benchmarks.summary import Summary
from benchmarks.workloads import WORKLOADS

Summaries = dict[tuple[Cell, str], Summary]


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        command: how to run it again.
        machine: see `environment`.
        titles: who the contenders are.
        absent: who did not take part, and why.
    """

    command: str
    machine: dict[str, Any]
    titles: dict[str, str]
    absent: list[str]
    summaries: Summaries
    growth: dict[str, Growth] = field(default_factory=dict)
    imported: Import | None = None
    streamed: Streaming | None = None
    pooled: dict[str, Pooling] = field(default_factory=dict)
    stored: Sequence[Stored] = ()

    def write_json(self, file: Path) -> None:
        """Write everything."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(orjson.dumps(self._as_json(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    def in_order(self) -> list[tuple[tuple[Cell, str], Summary]]:
        """Sort as a reader looks for it: workload, size, concurrency, the floor first, then us."""
        return sorted(self.summaries.items(), key=lambda item: _place(*item[0]))

    def _as_json(self) -> dict[str, Any]:
        cells = [
            {"workload": cell.workload.key, "size": cell.size, "concurrency": cell.concurrency, "contender": name}
            | asdict(summary)
            for (cell, name), summary in self.in_order()
        ]
        imported = self.imported and asdict(self.imported) | {"ratio": self.imported.ratio}
        return {
            "command": self.command,
            "machine": self.machine,
            "contenders": self.titles,
            "absent": self.absent,
            "cells": cells,
            "growth": {name: asdict(growth) for name, growth in self.growth.items()},
            "import": imported,
            "stream": self.streamed and asdict(self.streamed),
            "pool": {name: asdict(pooling) for name, pooling in self.pooled.items()},
            "stored": [asdict(one) for one in self.stored],
        }


def _place(cell: Cell, name: str) -> tuple[Any, ...]:
    order = [workload.key for workload in WORKLOADS]
    who = 0 if name.split(" ", maxsplit=1)[0] == cell.workload.floor else 1 if name.startswith("ours") else 2
    return order.index(cell.workload.key), list(SIZES).index(cell.size), cell.concurrency, "uvloop" in name, who, name
