"""The dashboard and the alert rules ask for metrics that exist, in a language that Prometheus reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from docs.documents import ROOT
from prometheus_client import CollectorRegistry, generate_latest

from agent_persistence import Persistence
from agent_persistence.integrations.prometheus import PersistenceCollector, prometheus_name
from agent_persistence.telemetry.names import FAMILIES
from promtool import ALERTS, has_promtool, promtool

DASHBOARD = ROOT / "docs" / "monitoring" / "grafana.json"
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


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


def test_they_group_and_choose_by_labels_that_exist() -> None:
    labels = {attribute.replace(".", "_") for family in FAMILIES for attribute in family.attributes}
    asked = " ".join([*expressions(), ALERTS.read_text(encoding="utf-8")])

    grouped = {label.strip() for found in re.findall(r"by \(([^)]+)\)", asked) for label in found.split(",")}
    chosen = set(re.findall(r"[{,](\w+)[!=]~?=?\"", asked))

    assert {"error_type", "kind"} <= grouped
    assert {"error_type", "outcome", "operation"} <= chosen
    assert grouped | chosen <= labels | {"job", "instance", "le"}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(expressions())

    assert [family.name for family in FAMILIES if not re.search(rf"\b{prometheus_name(family)}_?\w*{{", shown)] == []


def test_the_page_for_operators_says_of_every_alert_what_to_do() -> None:
    page = (ROOT / "docs" / "operations" / "monitoring.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(AgentPersistence\w+)` \| [^|]+ \| [^|]+ \|$", page, re.MULTILINE)

    assert described == re.findall(r"alert: (\w+)", ALERTS.read_text(encoding="utf-8"))


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
