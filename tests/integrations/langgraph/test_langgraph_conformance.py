"""LangGraph's own conformance suite, on a real database."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from agent_persistence import Persistence
from agent_persistence.integrations.langgraph import PersistenceSaver


async def test_every_capability_conforms(persistence: Persistence[str, str], user_id: str) -> None:
    @checkpointer_test(name="PersistenceSaver")
    async def saver() -> AsyncGenerator[Any, None]:
        yield PersistenceSaver(persistence, user_id=user_id)

    report = await validate(saver)

    results = {name: (result.passed, result.failures) for name, result in report.results.items()}
    assert results == {capability.value: (True, []) for capability in Capability}


async def test_it_conforms_with_ids_that_are_uuids(open_store: Any) -> None:
    store = await open_store(("uuid", "int"))

    @checkpointer_test(name="PersistenceSaver with UUIDs")
    async def saver() -> AsyncGenerator[Any, None]:
        yield PersistenceSaver(store, user_id=7)

    report = await validate(saver)

    assert {name for name, result in report.results.items() if not result.passed} == set()
