"""Prometheus reads the metrics, and their number does not grow with what is stored."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest
from docs.documents import ROOT
from leaks import CANARY
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent_persistence import ANY_USER, NewThread, Persistence, PersistenceError
from agent_persistence.integrations.prometheus import PersistenceCollector, prometheus_name
from agent_persistence.telemetry.names import FAMILIES

Store = Persistence[str, str]
MOST_SERIES = 400
MOST_NEW = 20
"""Series of a fault or of a reason to run alone, which a busy machine may bring about."""
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


@pytest.mark.slow
async def test_ten_thousand_threads_make_as_many_series_as_one(measured: Store, user_id: str) -> None:
    registry = registry_of(measured)

    async def use(owners: int, threads: int) -> set[str]:
        """The series after some threads of some owners were used."""
        for number in range(owners):
            owner = f"{IDENT}-{user_id}-{number}"
            new = [NewThread(thread_id=f"{owner}-{owners}-{n}", states=[{CANARY: n}]) for n in range(threads)]
            made = await measured.threads.create_many(new, user_id=owner)
            message = {"role": "user", "content": CANARY}
            await asyncio.gather(
                *(measured.states.get(thread, user_id=owner) for thread in made),
                *(measured.messages.append(thread, message, user_id=owner) for thread in made),
            )
        text = generate_latest(registry).decode()
        assert CANARY not in text
        assert IDENT not in text
        return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}

    before = await use(owners=1, threads=40)
    after = await use(owners=100, threads=100)

    assert len({name for name in after - before if not name.endswith("_created")}) <= MOST_NEW
    assert len(after) < MOST_SERIES


def test_the_page_for_operators_says_of_every_metric_what_it_means_and_what_to_do() -> None:
    page = (ROOT / "docs" / "operations" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([a-z_.]+)` \| (counter|gauge|histogram) \|([^|]*)\|([^|]*)\|([^|]*)\|$", page, re.MULTILINE
    )

    described = {name: (kind, tuple(re.findall("`([^`]+)`", attributes))) for name, kind, attributes, _, _ in rows}

    assert described == {family.name: (family.kind, family.attributes) for family in FAMILIES}
    assert all(meaning.strip() and what_to_do.strip() for *_, meaning, what_to_do in rows)
    assert len({prometheus_name(family) for family in FAMILIES}) == len(FAMILIES)
