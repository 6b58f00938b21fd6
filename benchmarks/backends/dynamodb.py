"""DynamoDB, or a server with its protocol, which the environment names."""

from __future__ import annotations

import os
import uuid
from typing import ClassVar

from agent_persistence import PersistenceError
from agent_persistence.backends.dynamodb import DynamoDBCheckpointer
from benchmarks.backends import OWNER, Backend
from benchmarks.contender import Addresses, MissingContenderError

_ENDPOINT = "PERSISTENCE_DYNAMODB_ENDPOINT_URL"


class DynamoDB(Backend):
    """A table of this run's own."""

    name: ClassVar[str] = "dynamodb"
    counted = False
    may_fail = True  # a server for tests has no locks, and fails some of many requests at once

    async def open(self, addresses: Addresses) -> None:  # noqa: ARG002  # it has a server of its own
        """Make a table, if a server is named."""
        self.title = "agent-persistence: DynamoDBCheckpointer"
        url = os.environ.get(_ENDPOINT)
        if url is None:
            raise MissingContenderError(f"{self.name}: no server; name one by {_ENDPOINT}")
        table = f"benchmark-{uuid.uuid4().hex}"
        checkpointer = DynamoDBCheckpointer(
            user_id=OWNER, table=table, endpoint_url=url, region=os.environ.get("PERSISTENCE_DYNAMODB_REGION")
        )
        try:
            await checkpointer.__aenter__()
            await checkpointer.create_table()
        except PersistenceError as error:
            await checkpointer.aclose()
            raise MissingContenderError(f"{self.name}: {error}") from error
        self.checkpointer = checkpointer
