"""A connection to Redis that is kept, on which the commands of several callers go out at once.

redis-py's methods cost half as much again for one command, and five times as much for each of sixteen: a checkout,
retries, a lock and callbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

Command = tuple[Any, ...]
"""Its name and its arguments."""


class Line:
    """A connection of a client's pool, kept from one call to the next. A call beside another one takes a second one.

    Args:
        redis: a client that returns bytes.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._kept: Redis | None = None

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands, which must be harmless if they run twice, and return the reply to each; an error is one, too.

        Raises:
            RedisError: there was no reply.
        """
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                return await self._send_on(kept, commands)
            except RedisConnectionError:
                pass  # the server may have closed it long ago
        fresh = self._redis.client()
        await fresh.initialize()
        return await self._send_on(fresh, commands)

    async def aclose(self) -> None:
        """Return the connection to its pool."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.aclose()

    async def _send_on(self, client: Redis, commands: Sequence[Command]) -> list[Any]:
        connection: Any = client.connection
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            return [await _reply(connection) for _ in commands]
        finally:
            if self._kept is None and connection.is_connected:
                self._kept = client
            else:
                with suppress(RedisError, OSError):
                    await client.aclose()


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
