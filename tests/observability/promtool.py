"""Prometheus's own tool, which judges names, rules and what they say of given series."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from docs.documents import ROOT

ALERTS = ROOT / "docs" / "monitoring" / "alerts.yaml"

has_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")


def promtool(*arguments: str | Path, given: str | None = None, complaints: str = "") -> None:
    """Run it; it must find no fault, or those that are expected."""
    done = subprocess.run(
        [shutil.which("promtool") or "promtool", *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.stdout == complaints if complaints else done.returncode == 0, done.stdout


def firing(series: list[dict[str, str]], *, at: str, every: str, alerts: set[str], folder: Path) -> None:
    """These alerts, and no others, must fire at a time for series that were scraped so often."""
    expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
    asked = {
        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
        "eval_time": at,
        "exp_samples": expected,
    }
    case = {"interval": every, "input_series": series, "promql_expr_test": [asked]}
    told: dict[str, Any] = {"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": [case]}
    rules = folder / "staged.yaml"
    rules.write_text(json.dumps(told), encoding="utf-8")

    promtool("test", "rules", rules)
