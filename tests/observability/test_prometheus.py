"""Prometheus reads the metrics, and their number does not grow with what is stored."""

from __future__ import annotations

import re
from contextlib import suppress

from docs.documents import ROOT
from leaks import CANARY
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent_persistence import ANY_USER, Persistence, PersistenceError
from agent_persistence.integrations.prometheus import PersistenceCollector, prometheus_name
from agent_persistence.telemetry.names import FAMILIES

Store = Persistence[str, str]
MOST_SERIES = 400
IDENT = "ident-4712"  # errors may name an id, metrics may not


def registry_of(store: Store) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(PersistenceCollector(store))
    return registry


def value_of(text: str, name: str, **labels: str) -> float:
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def do_everything(store: Store, user_id: str, number: int) -> None:
    """Calls and errors of many threads."""
    for _ in range(number):
        thread = await store.threads.create(user_id=user_id, name=CANARY, meta={CANARY: CANARY})
        await store.messages.append(thread.thread_id, {"role": "user", "content": CANARY}, user_id=user_id)
        await store.states.put(thread.thread_id, {CANARY: CANARY}, user_id=user_id)
        await store.states.get(thread.thread_id, user_id=user_id)
        await store.threads.page(user_id=user_id)
        for refused in (
            store.threads.create(user_id=user_id, thread_id=thread.thread_id),
            store.states.put(thread.thread_id, {}, user_id=user_id, expected_version=1),
            store.messages.append(f"{IDENT}-thread", {"role": "user", "content": "x"}, user_id=user_id),
            store.states.require(IDENT, user_id=ANY_USER),
        ):
            with suppress(PersistenceError):
                await refused


async def test_prometheus_reads_what_was_counted(measured: Store, user_id: str) -> None:
    registry = registry_of(measured)
    await do_everything(measured, user_id, 1)

    text = generate_latest(registry).decode()

    duration = "agent_persistence_operation_duration_seconds"
    assert value_of(text, f"{duration}_count", operation="states.get", error_type="") == 1
    assert value_of(text, f"{duration}_bucket", operation="states.get", error_type="", le="+Inf") == 1
    assert value_of(text, f"{duration}_count", operation="states.put", error_type="StateConflictError") == 1
    assert value_of(text, "agent_persistence_cache_lookups_total", result="hit") == 1
    assert value_of(text, "agent_persistence_states_bytes_total", form="whole") > 0
    assert value_of(text, "db_client_connection_max") == 15


async def test_buckets_are_cumulative_and_include_their_bound(measured: Store) -> None:
    registry = registry_of(measured)
    size = measured.telemetry.counts.batches["save"].size
    for value in (1, 2, 3, 100):
        size.add(value)

    text = generate_latest(registry).decode()

    buckets = {le: value_of(text, "agent_persistence_batch_size_bucket", kind="save", le=le) for le in ("1.0", "2.0")}
    assert buckets == {"1.0": 1, "2.0": 2}
    assert value_of(text, "agent_persistence_batch_size_bucket", kind="save", le="+Inf") == 4
    assert value_of(text, "agent_persistence_batch_size_sum", kind="save") == 106


async def test_more_threads_and_owners_make_no_more_series(measured: Store, user_id: str) -> None:
    registry = registry_of(measured)
    await do_everything(measured, f"{IDENT}-{user_id}", 2)
    before = generate_latest(registry).decode()

    for owner in range(3):
        await do_everything(measured, f"{IDENT}-{user_id}-{owner}", 3)

    after = generate_latest(registry).decode()
    series = [line for line in after.splitlines() if not line.startswith("#")]
    assert len(series) <= len([line for line in before.splitlines() if not line.startswith("#")]) + 14
    assert len(series) < MOST_SERIES
    assert CANARY not in after
    assert IDENT not in after


def test_the_guide_describes_every_metric() -> None:
    guide = (ROOT / "docs" / "howto" / "observability.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z_.]+)` \| (\w+)", guide, re.MULTILINE))

    assert {name: kind for name, kind in rows.items() if "." in name and kind in {"counter", "gauge", "histogram"}} == {
        family.name: family.kind for family in FAMILIES
    }
    assert len({prometheus_name(family) for family in FAMILIES}) == len(FAMILIES)
