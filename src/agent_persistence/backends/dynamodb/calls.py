"""Calls of DynamoDB: on one table, with errors that are ours."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Any, Final

import aioboto3
from aiobotocore.config import AioConfig
from botocore import exceptions

from agent_persistence.backends.dynamodb.items import EXPIRY, INDEX, Item
from agent_persistence.concurrency.retries import LostReplyError
from agent_persistence.errors import (
    DatabaseError,
    InvalidInputError,
    NotMigratedError,
    PersistenceError,
    UnavailableError,
)

_BUSY: Final = frozenset(
    {
        "InternalServerError",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_NOT_MET: Final = "ConditionalCheckFailedException"
_CANCELED: Final = "TransactionCanceledException"
_CONDITION: Final = "ConditionalCheckFailed"
# Why a transaction is canceled each time it is tried.
_FOR_GOOD: Final = frozenset({"AccessDenied", "ItemCollectionSizeLimitExceeded", "ValidationError"})
_MOST_AT_ONCE: Final = 25  # that a batch may write
_LONGEST_PAUSE: Final = 5.0
_ANY_REGION: Final = "us-east-1"  # to a server that is not AWS it means nothing, but the library wants one
_NOT_SENT: Final = (exceptions.ConnectTimeoutError, exceptions.EndpointConnectionError, exceptions.ProxyConnectionError)


class ConditionNotMetError(Exception):
    """The item is not what it was, or another transaction is at it."""


class Table:
    """One table, through a client of botocore's."""

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    async def create(self) -> None:
        """Create the table unless it exists, wait until it can be used, and let items expire."""
        with self._errors():
            with suppress(self._client.exceptions.ResourceInUseException):  # it is there, or another process was first
                await self._client.create_table(TableName=self._name, BillingMode="PAY_PER_REQUEST", **_SCHEMA)
            await self._client.get_waiter("table_exists").wait(TableName=self._name, WaiterConfig={"Delay": 1})
            described = await self._client.describe_time_to_live(TableName=self._name)
            if described["TimeToLiveDescription"]["TimeToLiveStatus"] not in ("ENABLED", "ENABLING"):
                ttl = {"Enabled": True, "AttributeName": EXPIRY}
                await self._client.update_time_to_live(TableName=self._name, TimeToLiveSpecification=ttl)

    async def get(self, key: Item) -> Item | None:
        """Read an item as it is now."""
        with self._errors():
            answer = await self._client.get_item(TableName=self._name, Key=key, ConsistentRead=True)
        found: Item | None = answer.get("Item")
        return found

    async def put_together(self, item: Item, condition: Mapping[str, Any], other: Item) -> None:
        """Write two items, or none.

        Args:
            condition: what must hold of the first: ``ConditionExpression`` and what belongs to it.

        Raises:
            ConditionNotMetError: it does not.
        """
        first = {"Put": {"TableName": self._name, "Item": item, **condition}}
        second = {"Put": {"TableName": self._name, "Item": other}}
        with self._errors():
            await self._client.transact_write_items(TransactItems=[first, second])

    async def update(self, key: Item, **what: Any) -> None:
        """Change an item.

        Raises:
            ConditionNotMetError: it is not there, or not as it must be.
        """
        with self._errors():
            await self._client.update_item(TableName=self._name, Key=key, **what)

    async def delete(self, key: Item, **condition: Any) -> None:
        """Delete an item.

        Raises:
            ConditionNotMetError: it is not as it must be.
        """
        with self._errors():
            await self._client.delete_item(TableName=self._name, Key=key, **condition)

    async def query(self, **what: Any) -> AsyncIterator[Item]:
        """Walk through items as they are now."""
        while True:
            with self._errors():
                answer = await self._client.query(TableName=self._name, ConsistentRead=True, **what)
            for item in answer["Items"]:
                yield item
            if "LastEvaluatedKey" not in answer:
                return
            what["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def put_many(self, items: Sequence[Item]) -> None:
        """Write many items, in no order."""
        await self._write_many([{"PutRequest": {"Item": item}} for item in items])

    async def delete_many(self, keys: Sequence[Item]) -> None:
        """Delete many items, in no order."""
        await self._write_many([{"DeleteRequest": {"Key": key}} for key in keys])

    async def _write_many(self, requests: Sequence[Any]) -> None:
        left, pause = list(requests), 0.02
        while left:
            batch, left = left[:_MOST_AT_ONCE], left[_MOST_AT_ONCE:]
            with self._errors():
                answer = await self._client.batch_write_item(RequestItems={self._name: batch})
            if undone := answer.get("UnprocessedItems", {}).get(self._name):
                if pause > _LONGEST_PAUSE:
                    raise UnavailableError("DynamoDB is busy")
                left += undone
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause *= 2

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exceptions.ClientError as error:
            if _is_unmet(error):
                raise ConditionNotMetError from error
            raise self._refusal(error) from error
        except exceptions.WaiterError as error:
            raise UnavailableError(f"table {self._name} of DynamoDB is not ready yet") from error
        except exceptions.BotoCoreError as error:
            raise _failure(error) from error

    def _refusal(self, error: exceptions.ClientError) -> PersistenceError:
        code = error.response["Error"]["Code"]
        if reasons := _FOR_GOOD & _reasons(error):
            return DatabaseError(f"DynamoDB refused: {', '.join(sorted(reasons))}")
        if code in _BUSY or code == _CANCELED:
            return UnavailableError("DynamoDB is busy")
        if code == "ResourceNotFoundException":
            needed = f"table {self._name} of DynamoDB"
            return NotMigratedError(None, needed, "await checkpointer.create_table(), once")
        return DatabaseError(f"DynamoDB refused: {code}")


def _is_unmet(error: exceptions.ClientError) -> bool:
    return error.response["Error"]["Code"] == _NOT_MET or _CONDITION in _reasons(error)


def _reasons(error: exceptions.ClientError) -> set[str]:
    """Why a transaction was canceled."""
    return {reason.get("Code", "") for reason in error.response.get("CancellationReasons", ())}


async def open_client(closing: AsyncExitStack, endpoint_url: str | None, region: str | None) -> Any:
    """Open a client that does not repeat calls: that is done where it is known whether it is safe.

    Raises:
        InvalidInputError: the endpoint is not the address of a server.
        DatabaseError: nobody has said which region.
    """
    session: Any = aioboto3.Session()
    region = region or session.region_name or (_ANY_REGION if endpoint_url else None)
    config = AioConfig(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    try:
        client = session.client("dynamodb", endpoint_url=endpoint_url, region_name=region, config=config)
        return await closing.enter_async_context(client)
    except ValueError:
        raise InvalidInputError("endpoint_url", "must be the http:// or https:// address of a server") from None
    except exceptions.BotoCoreError as error:
        raise _failure(error) from error


def _failure(error: exceptions.BotoCoreError) -> PersistenceError:
    if isinstance(error, _NOT_SENT):
        return UnavailableError("DynamoDB cannot be reached")
    if isinstance(error, exceptions.HTTPClientError):
        return LostReplyError("DynamoDB did not answer")
    if isinstance(error, exceptions.NoRegionError):
        return DatabaseError("there is no AWS region; set AWS_DEFAULT_REGION or PERSISTENCE_DYNAMODB_REGION")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return DatabaseError(
            "there are no AWS credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a test server takes any"
        )
    return DatabaseError(f"DynamoDB cannot be asked: {type(error).__name__}")


def _schema() -> dict[str, Any]:
    def key(sort: str) -> list[dict[str, str]]:
        return [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]

    kinds = {"pk": "S", "sk": "S", "updated": "N"}
    return {
        "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()],
        "KeySchema": key("sk"),
        "LocalSecondaryIndexes": [
            {"IndexName": INDEX, "KeySchema": key("updated"), "Projection": {"ProjectionType": "ALL"}}
        ],
    }


_SCHEMA: Final = _schema()
