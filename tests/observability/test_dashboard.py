"""The dashboard and the alert rules ask for metrics that exist, in a language that Prometheus reads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from docs.documents import ROOT
from prometheus_client import CollectorRegistry, generate_latest

from agent_persistence import Persistence
from agent_persistence.integrations.prometheus import PersistenceCollector, prometheus_name
from agent_persistence.telemetry.names import FAMILIES

ALERTS = ROOT / "docs" / "monitoring" / "alerts.yaml"
DASHBOARD = ROOT / "docs" / "monitoring" / "grafana.json"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}

has_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")


def promtool(*arguments: str | Path, given: str | None = None, complaints: str = "") -> None:
    done = subprocess.run(
        [shutil.which("promtool") or "promtool", *map(str, arguments)],
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.stdout == complaints if complaints else done.returncode == 0, done.stdout


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def test_they_ask_for_metrics_that_exist() -> None:
    exported = {prometheus_name(family) + suffix for family in FAMILIES for suffix in SUFFIXES[family.kind]}

    asked = set(re.findall(r"\b((?:agent_persistence|db_client)_\w+)\b[{\[)]", " ".join(expressions())))
    asked |= set(re.findall(r"\b((?:agent_persistence|db_client)_\w+)\b[{\[)]", ALERTS.read_text(encoding="utf-8")))

    assert len(asked) > 20
    assert asked <= exported


def test_every_panel_says_what_it_shows_in_a_place_of_its_own() -> None:
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()}

    assert len(places) == len(panels())
    assert all(panel["description"] for panel in panels())


@has_promtool
@pytest.mark.needs_apt
def test_prometheus_reads_the_alert_rules() -> None:
    promtool("check", "rules", ALERTS)


@has_promtool
@pytest.mark.needs_apt
def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    told = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m").replace("$job", ".*")}
        for number, expression in enumerate(expressions())
    ]
    rules = tmp_path / "dashboard.yaml"
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": told}]}), encoding="utf-8")

    promtool("check", "rules", rules)


@has_promtool
@pytest.mark.needs_apt
async def test_prometheus_finds_no_fault_with_the_names(measured: Persistence[str, str]) -> None:
    registry = CollectorRegistry()
    registry.register(PersistenceCollector(measured))

    # The name is that of OpenTelemetry's convention.
    known = 'db_client_connection_count non-histogram and non-summary metrics should not have "_count" suffix\n'
    promtool("check", "metrics", given=generate_latest(registry).decode(), complaints=known)
