"""Calls of Redis: scripts run once, errors become ours."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from socket import gaierror
from typing import Any, Final

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agent_persistence.backends.redis.scripts import Script
from agent_persistence.concurrency.affinity import Affinity
from agent_persistence.concurrency.retries import LostReplyError, LostReplyRetries
from agent_persistence.errors import DatabaseError, InvalidInputError, PersistenceError, UnavailableError
from agent_persistence.settings import PersistenceSettings

Client = Redis | RedisCluster

_REFUSED: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
# The server, or the one that answers for it, is not ready, and has done nothing.
_NOT_READY: Final = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.MaxConnectionsError,
    exceptions.ReadOnlyError,
    exceptions.RedisClusterException,
    exceptions.TryAgainError,
)
_LOST: Final = (exceptions.ConnectionError, exceptions.TimeoutError)
_NOBODY_THERE: Final = (ConnectionRefusedError, FileNotFoundError, gaierror)


def make_client(url: str, settings: PersistenceSettings) -> Redis:
    """Make a client with a pool of bounded size; the time limits are those of the database.

    Raises:
        InvalidInputError: it is not the address of a Redis.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.pool_size + settings.max_overflow,
            timeout=settings.pool_timeout,
            socket_timeout=settings.statement_timeout,
            socket_connect_timeout=settings.connect_timeout,
            retry=Retry(NoBackoff(), 0),  # calls are repeated here, where it is known whether that is safe
            decode_responses=False,
        )
    except (ValueError, AttributeError):  # the text could hold the password
        raise InvalidInputError("url", "must be the redis://, rediss:// or unix:// address of a server") from None
    return Redis.from_pool(pool)


class Calls:
    """Runs scripts on a client, again while that may help.

    Args:
        retry_seconds: for how long one call is tried again.
    """

    def __init__(self, client: Client, *, retry_seconds: float) -> None:
        if client.get_encoder().decode_responses:
            raise InvalidInputError("client", "must return bytes: make it without decode_responses")
        self._client = client
        self._home = Affinity()
        self._repeating = LostReplyRetries(retry_seconds)

    async def read(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script that may run any number of times."""
        return await self._repeating.read(lambda: self._once(script, keys, arguments))

    async def write(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script that recognizes when it has run already.

        Raises:
            CommitUnknownError: Redis went away, and did not come back in time to say whether it has.
        """
        return await self._repeating.write(lambda: self._once(script, keys, arguments))

    async def write_once(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script that would give another answer if it ran again.

        Raises:
            CommitUnknownError: Redis went away, and it may have run.
        """
        return await self._repeating.write_once(lambda: self._once(script, keys, arguments))

    def close(self) -> None:
        """Refuse to be used from now on."""
        self._home.close()

    async def _once(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        self._home.check()
        words = (len(keys), *keys, *arguments)
        try:
            with suppress(exceptions.NoScriptError):
                return await self._client.evalsha(script.sha, *words)
            return await self._client.eval(script.text, *words)
        except exceptions.RedisError as error:
            raise _translated(error) from error


def _translated(error: exceptions.RedisError) -> PersistenceError:
    """Of the server's own words nothing is repeated: they can hold arguments."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return DatabaseError("Redis is full and saved nothing: raise its maxmemory, delete threads, or let them expire")
    if isinstance(error, _REFUSED):
        return DatabaseError("Redis refuses this user; look at the user and the password in its URL, and at its ACL")
    if isinstance(error, _NOT_READY) or isinstance(error.__context__, _NOBODY_THERE):
        return UnavailableError("Redis cannot be reached, or is not ready")
    if isinstance(error, _LOST):
        return LostReplyError("Redis did not answer")
    return DatabaseError(f"Redis refused: {type(error).__name__}")
