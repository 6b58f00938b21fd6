"""What is measured leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest

from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from agent_persistence.telemetry.operation import Operation


@pytest.mark.slow
async def test_measured_calls_are_freed_without_a_collection(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], user_id: str
) -> None:
    """An operation refers to its batch, and the batch to its operations, which have the arguments: whole states."""
    async with Persistence[str, str](await settings_for(metrics=True)) as store:
        thread = await store.threads.create(user_id=user_id)
        gc.collect()
        gc.disable()
        try:
            before = _operations()
            for _ in range(3):
                await asyncio.gather(*(store.threads.get(thread.thread_id, user_id=user_id) for _ in range(16)))
            await asyncio.sleep(0)
            left = _operations() - before
        finally:
            gc.enable()

    assert left <= 2  # of 48: a timer may keep the context of one


def _operations() -> int:
    """Count those of callers; a batch is small, and a cancelled timer may keep it for a while."""
    return sum(isinstance(one, Operation) and one.call is not None for one in gc.get_objects())
