"""A checkpointer that keeps states in Amazon DynamoDB, or a server with its protocol.

    async with DynamoDBCheckpointer(user_id="u-42", table="agents", region="eu-central-1") as checkpointer:
        await checkpointer.create_table()  # once; nothing else creates it

Needs the extra ``dynamodb``. One table, billed by request. Readers see a state of any size completely or not at all.
"""

from agent_persistence.errors import MissingExtraError

try:
    from agent_persistence.backends.dynamodb.checkpointer import DynamoDBCheckpointer
except ModuleNotFoundError as error:
    raise MissingExtraError("dynamodb") from error

__all__ = ["DynamoDBCheckpointer"]
