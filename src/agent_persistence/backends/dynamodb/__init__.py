"""States in Amazon DynamoDB, or what speaks its protocol.

    async with DynamoDBCheckpointer(user_id="u-42", table="agents", region="eu-central-1") as checkpointer:
        await checkpointer.create_table()  # once, and never by itself

Needs the extra ``dynamodb``. One table, billed by request. A state of any size is seen whole or not at all.
"""

from agent_persistence.errors import MissingExtraError

try:
    from agent_persistence.backends.dynamodb.checkpointer import DynamoDBCheckpointer
except ModuleNotFoundError as error:
    raise MissingExtraError("dynamodb") from error

__all__ = ["DynamoDBCheckpointer"]
