"""One table of DynamoDB: its calls, with this package's errors in place of botocore's."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

import aioboto3
from aiobotocore.config import AioConfig
from botocore import exceptions

from agent_persistence.backends.dynamodb.items import EXPIRY, INDEX, Item
from agent_persistence.concurrency.retries import LostReplyError, replies_in_time
from agent_persistence.errors import (
    DatabaseError,
    InvalidInputError,
    NotMigratedError,
    PersistenceError,
    UnavailableError,
)

# Answers by which DynamoDB asks for a retry, and after which the request may have been executed all the same.
_IN_DOUBT: Final = frozenset({"InternalServerError", "ServiceUnavailable"})
# Answers by which DynamoDB asks for a retry of a request that it has not executed.
_BUSY: Final = frozenset(
    {
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "ThrottlingException",
        "TransactionConflictException",
        "TransactionInProgressException",
    }
)
_CONDITION_FAILED: Final = "ConditionalCheckFailedException"
_CANCELED: Final = "TransactionCanceledException"
_REASON_CONDITION: Final = "ConditionalCheckFailed"
# Reasons for which every attempt at the transaction would be canceled; all others are temporary.
_REASONS_PERMANENT: Final = frozenset({"AccessDenied", "ItemCollectionSizeLimitExceeded", "ValidationError"})
_BATCH_ITEMS: Final = 25  # DynamoDB refuses more in one batch
_LONGEST_PAUSE: Final = 5.0
_ANY_REGION: Final = "us-east-1"  # the client needs a region, which a server other than AWS ignores
# Failures before a connection was made: nothing was sent, so a retry is safe.
_NOT_SENT: Final = (exceptions.ConnectTimeoutError, exceptions.EndpointConnectionError, exceptions.ProxyConnectionError)
_ATTRIBUTE_TYPES: Final = {"pk": "S", "sk": "S", "updated": "N"}


def _key_schema(sort_key: str) -> list[dict[str, str]]:
    return [{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": sort_key, "KeyType": "RANGE"}]


_SCHEMA: Final[dict[str, Any]] = {
    "BillingMode": "PAY_PER_REQUEST",
    "AttributeDefinitions": [{"AttributeName": name, "AttributeType": kind} for name, kind in _ATTRIBUTE_TYPES.items()],
    "KeySchema": _key_schema("sk"),
    # Local, because a global index cannot be read consistently: a thread that was just saved would not be listed.
    "LocalSecondaryIndexes": [
        {"IndexName": INDEX, "KeySchema": _key_schema("updated"), "Projection": {"ProjectionType": "ALL"}}
    ],
}


class ConditionNotMetError(Exception):
    """The item has changed since it was read. Never leaves this package."""


class Table:
    """One table, called through a botocore client.

    Each method raises ``UnavailableError`` where a retry may help, ``LostReplyError`` where the request may have been
    executed, ``NotMigratedError`` where there is no table, and ``DatabaseError`` where DynamoDB refused.

    Args:
        client: an aiobotocore client of DynamoDB.
        name: the name of the table.
    """

    def __init__(self, client: Any, name: str) -> None:
        self._client = client
        self._name = name

    async def create(self) -> None:
        """Create the table unless it exists, wait until it is active, and enable its time to live."""
        async with self._errors(requests=4):
            with suppress(self._client.exceptions.ResourceInUseException):  # it exists, or is being created
                await self._client.create_table(TableName=self._name, **_SCHEMA)
            await self._client.get_waiter("table_exists").wait(TableName=self._name, WaiterConfig={"Delay": 1})
            described = await self._client.describe_time_to_live(TableName=self._name)
            # DynamoDB refuses to enable it twice.
            if described["TimeToLiveDescription"]["TimeToLiveStatus"] not in ("ENABLED", "ENABLING"):
                ttl = {"Enabled": True, "AttributeName": EXPIRY}
                await self._client.update_time_to_live(TableName=self._name, TimeToLiveSpecification=ttl)

    async def get(self, key: Item) -> Item | None:
        """Read an item consistently; ``None`` if it does not exist."""
        async with self._errors():
            answer = await self._client.get_item(TableName=self._name, Key=key, ConsistentRead=True)
        found: Item | None = answer.get("Item")
        return found

    async def put_together(self, item: Item, condition: Mapping[str, Any], other: Item) -> None:
        """Write two items in a transaction.

        Args:
            item: the item that must meet the condition.
            condition: ``ConditionExpression``, with its names and values.
            other: the item that is written with it.

        Raises:
            ConditionNotMetError: the condition does not hold; nothing was written.
        """
        first = {"Put": {"TableName": self._name, "Item": item, **condition}}
        second = {"Put": {"TableName": self._name, "Item": other}}
        async with self._errors():
            # Without ClientRequestToken: after its ten minutes, a retry would save once more. The condition and the
            # token in the item recognise a repetition at any time.
            await self._client.transact_write_items(TransactItems=[first, second])

    async def update(self, key: Item, **request: Any) -> None:
        """Update an item.

        Raises:
            ConditionNotMetError: the condition of the request does not hold.
        """
        async with self._errors():
            await self._client.update_item(TableName=self._name, Key=key, **request)

    async def delete(self, key: Item, **condition: Any) -> None:
        """Delete an item.

        Raises:
            ConditionNotMetError: the condition does not hold.
        """
        async with self._errors():
            await self._client.delete_item(TableName=self._name, Key=key, **condition)

    async def query(self, **request: Any) -> AsyncIterator[Item]:
        """Iterate over the items of a query, which are read consistently, request after request."""
        while True:
            async with self._errors():
                answer = await self._client.query(TableName=self._name, ConsistentRead=True, **request)
            for item in answer["Items"]:
                yield item
            if "LastEvaluatedKey" not in answer:
                return
            request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def put_many(self, items: Sequence[Item]) -> None:
        """Write many items, in no particular order and without a transaction."""
        await self._write_many([{"PutRequest": {"Item": item}} for item in items])

    async def delete_many(self, keys: Sequence[Item]) -> None:
        """Delete many items, in no particular order and without a transaction."""
        await self._write_many([{"DeleteRequest": {"Key": key}} for key in keys])

    async def _write_many(self, requests: Sequence[Any]) -> None:
        left, pause = list(requests), 0.02
        while left:
            batch, left = left[:_BATCH_ITEMS], left[_BATCH_ITEMS:]
            async with self._errors():
                answer = await self._client.batch_write_item(RequestItems={self._name: batch})
            # A throttled batch is not an error: DynamoDB writes what it can, and returns the rest.
            if unprocessed := answer.get("UnprocessedItems", {}).get(self._name):
                if pause > _LONGEST_PAUSE:
                    raise UnavailableError("DynamoDB is busy")
                left += unprocessed
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause *= 2

    @asynccontextmanager
    async def _errors(self, *, requests: int = 1) -> AsyncIterator[None]:
        try:
            async with replies_in_time("DynamoDB", requests=requests):
                yield
        except exceptions.ClientError as error:
            reasons = {reason.get("Code", "") for reason in error.response.get("CancellationReasons", ())}
            if error.response["Error"]["Code"] == _CONDITION_FAILED or _REASON_CONDITION in reasons:
                raise ConditionNotMetError from error
            raise self._refusal(error.response["Error"]["Code"], reasons) from error
        except exceptions.WaiterError as error:
            raise UnavailableError(f"table {self._name} of DynamoDB is not ready yet") from error
        except exceptions.BotoCoreError as error:
            raise _failure(error) from error

    def _refusal(self, code: str, reasons: set[str]) -> PersistenceError:
        """Return this package's error for an answer, without DynamoDB's text: it can hold keys and values."""
        if permanent := _REASONS_PERMANENT & reasons:
            return DatabaseError(f"DynamoDB refused: {', '.join(sorted(permanent))}")
        if code in _IN_DOUBT:
            return LostReplyError("DynamoDB failed and did not say whether it executed the request")
        if code in _BUSY or code == _CANCELED:
            return UnavailableError("DynamoDB is busy")
        if code == "ResourceNotFoundException":
            needed = f"table {self._name} of DynamoDB"
            return NotMigratedError(None, needed, "await checkpointer.create_table(), once")
        return DatabaseError(f"DynamoDB refused: {code}")


async def open_client(closing: AsyncExitStack, endpoint_url: str | None, region: str | None) -> Any:
    """Open a client, which ``closing`` closes.

    Args:
        endpoint_url: the address of a server other than AWS.
        region: the AWS region; by default that of the AWS configuration.

    Raises:
        InvalidInputError: ``endpoint_url`` is not the address of a server.
        DatabaseError: no region is configured.
    """
    session: Any = aioboto3.Session()
    region = region or session.region_name or (_ANY_REGION if endpoint_url else None)
    # One attempt: botocore would also repeat requests whose reply was lost, and hide that from the caller.
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
        return DatabaseError("no AWS region is configured; set AWS_DEFAULT_REGION or PERSISTENCE_DYNAMODB_REGION")
    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return DatabaseError(
            "no AWS credentials are configured; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a test server accepts "
            "any values"
        )
    return DatabaseError(f"DynamoDB cannot be called: {type(error).__name__}")
