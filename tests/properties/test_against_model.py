"""The public API against a model: any sequence of calls gives what the model gives, whatever the cache does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from failing_cache_machine import FailingCacheMachine
from store_machine import StoreMachine

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cache", ["on", "off", "failing"])
async def test_any_sequence_of_calls_gives_what_the_model_gives(cache: str, settings_for: Any, servers: Any) -> None:
    machine = FailingCacheMachine if cache == "failing" else StoreMachine
    machine.settings = await settings_for(redis_url=None if cache == "off" else servers.redis_url)

    await asyncio.to_thread(
        run_state_machine_as_test,
        machine,
        settings=settings(
            max_examples=30 if cache == "failing" else 20,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
