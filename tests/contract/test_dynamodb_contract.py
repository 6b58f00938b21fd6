"""The DynamoDB backend keeps the contract, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest_asyncio

from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from agent_persistence.testing import CheckpointerContract

Open = Callable[..., Awaitable[DynamoDBCheckpointer]]


class Clock:
    """A clock that can be set forward."""

    def __init__(self) -> None:
        self.added = 0.0

    def __call__(self) -> float:
        return time.time() + self.added


class TestDynamoDB(CheckpointerContract):
    backend = DynamoDBCheckpointer
    clock = Clock()

    async def let_pass(self, seconds: float) -> None:
        self.clock.added += seconds

    @pytest_asyncio.fixture
    async def open_checkpointer(self, dynamodb: Any, dynamodb_table: str) -> Open:
        async def open_checkpointer(user_id: str, *, namespace: str = "contract-a") -> DynamoDBCheckpointer:
            return DynamoDBCheckpointer(
                client=dynamodb, table=dynamodb_table, user_id=user_id, namespace=namespace, clock=self.clock
            )

        return open_checkpointer
