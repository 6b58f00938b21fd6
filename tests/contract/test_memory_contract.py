"""The memory backend keeps the contract."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest

from agent_persistence.backends.memory import MemoryCheckpointer, MemoryStore
from agent_persistence.testing import CheckpointerContract


class Clock:
    """A clock that can be set forward."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.time() + self.added


class TestMemory(CheckpointerContract):
    backend = MemoryCheckpointer
    clock = Clock()

    async def let_pass(self, seconds: float) -> None:
        self.clock.added += seconds

    @pytest.fixture
    def open_checkpointer(self) -> Callable[..., Awaitable[MemoryCheckpointer]]:
        store = MemoryStore(clock=self.clock)

        async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> MemoryCheckpointer:
            return MemoryCheckpointer(user_id=user_id, namespace=namespace, store=store)

        return open_checkpointer
