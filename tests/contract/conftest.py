"""Servers of the backends that the other tests do not need."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import aioboto3
import pytest
import pytest_asyncio
from dynamodb_server import REGION, dynamodb_server

from agent_persistence.backends.dynamodb import DynamoDBCheckpointer


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The address of a server with DynamoDB's protocol."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anything")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        with dynamodb_server() as url:
            yield url


@pytest_asyncio.fixture(scope="session")
async def dynamodb(moto_url: str) -> AsyncIterator[Any]:
    """A client with which tests read the table directly."""
    session: Any = aioboto3.Session()
    async with session.client("dynamodb", endpoint_url=moto_url, region_name=REGION) as client:
        yield client


@pytest_asyncio.fixture(scope="session")
async def dynamodb_table(dynamodb: Any) -> str:
    """The name of a table that exists."""
    await DynamoDBCheckpointer(user_id="u", client=dynamodb).create_table()
    return "agent_persistence"
