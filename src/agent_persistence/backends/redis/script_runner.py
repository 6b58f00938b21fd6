"""Lua scripts, run and retried on a client; Redis errors become this package's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from socket import gaierror
from typing import Any, Final

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from agent_persistence.backends.redis.scripts import Script
from agent_persistence.concurrency.affinity import Affinity
from agent_persistence.concurrency.retries import LostReplyError, LostReplyRetries, replies_in_time
from agent_persistence.errors import DatabaseError, InvalidInputError, PersistenceError, UnavailableError
from agent_persistence.settings import PersistenceSettings

Client = Redis | RedisCluster

_REFUSED: Final = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
# The server, or the client on its behalf, answered that it is not ready: the script did not run, so a retry is safe.
# Some of these are subclasses of those in _LOST, and must be looked for first.
_NOT_READY: Final = (
    exceptions.BusyLoadingError,
    exceptions.ClusterDownError,
    exceptions.MaxConnectionsError,
    exceptions.ReadOnlyError,
    exceptions.RedisClusterException,
    exceptions.TryAgainError,
)
_LOST: Final = (exceptions.ConnectionError, exceptions.TimeoutError)
# The cause of a ConnectionError if no connection was made: then nothing was sent.
_NOT_CONNECTED: Final = (ConnectionRefusedError, FileNotFoundError, gaierror)


def make_client(url: str, settings: PersistenceSettings) -> Redis:
    """Create a client with a bounded pool and the timeouts of the database settings.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``.
        settings: the size of the pool, and the timeouts.

    Raises:
        InvalidInputError: ``url`` is not the address of a Redis server.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.pool_size + settings.max_overflow,
            timeout=settings.pool_timeout,
            socket_timeout=settings.statement_timeout,
            socket_connect_timeout=settings.connect_timeout,
            # ScriptRunner retries. redis-py would also repeat deletions, whose second run answers differently.
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
    except (ValueError, AttributeError):  # without its text, which could hold the password
        raise InvalidInputError("url", "must be the redis://, rediss:// or unix:// address of a server") from None
    return Redis.from_pool(pool)


class ScriptRunner:
    """Runs scripts on a client, and retries them where that is safe.

    Args:
        client: a client that returns bytes.
        retry_seconds: how long after the first attempt of a call another one may start.
    """

    def __init__(self, client: Client, *, retry_seconds: float) -> None:
        if client.get_encoder().decode_responses:
            raise InvalidInputError("client", "must return bytes: create it without decode_responses")
        self._client = client
        self._affinity = Affinity()
        self._retries = LostReplyRetries(retry_seconds)

    async def read(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script that may run any number of times."""
        return await self._retries.read(partial(self._run_once, script, keys, arguments))

    async def write(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run an idempotent script: one that recognises that an earlier attempt has run.

        Raises:
            CommitUnknownError: a reply was lost, and Redis did not come back within the deadline.
        """
        return await self._retries.write(partial(self._run_once, script, keys, arguments))

    async def write_once(self, script: Script, keys: Sequence[str], *arguments: Any) -> Any:
        """Run a script that would answer differently if it ran twice, so a lost reply ends it.

        Raises:
            CommitUnknownError: the reply was lost.
        """
        return await self._retries.write_once(partial(self._run_once, script, keys, arguments))

    def close(self) -> None:
        """Make every later call raise ``ClosedError``."""
        self._affinity.close()

    async def _run_once(self, script: Script, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        self._affinity.check()
        command = (len(keys), *keys, *arguments)
        try:
            # The hash saves sending the script. A server that restarted or failed over does not know it, and learns it
            # by EVAL; SCRIPT LOAD at the start would not help with that, and costs a round trip.
            async with replies_in_time("Redis"):
                with suppress(exceptions.NoScriptError):
                    return await self._client.evalsha(script.sha, *command)
                return await self._client.eval(script.text, *command)
        except (exceptions.RedisError, exceptions.RedisClusterException) as error:
            raise _translated(error) from error


def _translated(error: exceptions.RedisError | exceptions.RedisClusterException) -> PersistenceError:
    """Return this package's error, without the server's text: it can hold arguments, that is, states."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return DatabaseError("Redis is full and saved nothing: raise its maxmemory, delete threads, or let them expire")
    if isinstance(error, _REFUSED):
        return DatabaseError("Redis refuses this user; check the user and password in its URL, and its ACL")
    if isinstance(error, _NOT_READY) or isinstance(error.__context__, _NOT_CONNECTED):
        return UnavailableError("Redis cannot be reached, or is not ready")
    if isinstance(error, _LOST):
        return LostReplyError("Redis did not answer")
    return DatabaseError(f"Redis refused: {type(error).__name__}")
