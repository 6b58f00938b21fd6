"""The Redis client, configured for the circuit breaker."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from typing_extensions import override

from agent_persistence.cache.circuit_breaker import CALLS_AT_ONCE
from agent_persistence.errors import SettingsError

CONNECT_SECONDS: Final = 2.0
"""The limit for making a connection: TLS alone takes the client 26 ms of CPU, more than a call may take."""


class ConnectionPool(BlockingConnectionPool):
    """A pool that goes on connecting when the call that wanted the connection is given up.

    Otherwise a server that takes longer to connect to than a call may take would never be used. The next call waits for
    the connection that is being made.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._connecting: dict[Any, asyncio.Task[None]] = {}
        # One for all connections: making one reads all certificates of the system.
        self._tls: Any = None

    @override
    def make_connection(self) -> Any:
        connection = super().make_connection()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        if isinstance(connection, SSLConnection):
            self._tls = self._tls or connection.ssl_context
            connection.ssl_context = self._tls
        return connection

    @override
    async def ensure_connection(self, connection: Any) -> None:
        task = self._connecting.get(connection)
        if task is None and not connection.is_connected:
            task = self._connecting[connection] = asyncio.get_running_loop().create_task(_connect(connection))
            task.add_done_callback(lambda done: self._connected(connection, done))
        if task is not None:
            await asyncio.shield(task)
        await super().ensure_connection(connection)

    @override
    async def disconnect(self, inuse_connections: bool = True) -> None:  # redis-py's signature
        for task in self._connecting.values():
            task.cancel()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        await super().disconnect(inuse_connections)

    def _connected(self, connection: Any, task: asyncio.Task[None]) -> None:
        del self._connecting[connection]
        if not task.cancelled():
            task.exception()  # told to those who wait for it; nobody may be left


async def _connect(connection: Any) -> None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.connect()
    except TimeoutError as error:
        raise RedisConnectionError("connecting took too long") from error
    except asyncio.CancelledError:
        await connection.disconnect(nowait=True)
        raise


def make_redis(url: str, *, timeout_seconds: float) -> Redis:
    """Create a client that fails fast: no retries, a bounded pool; it returns bytes.

    redis-py's defaults retry for seconds (58 s against a server that hangs). The retry object must be the one of
    ``redis.asyncio``: the synchronous one is accepted and does nothing. The circuit breaker limits the calls.

    Args:
        url: the address of the server.
        timeout_seconds: the limit for a connection from the pool.

    Raises:
        SettingsError: a certificate that the address names cannot be read.
    """
    # Blocking, because two circuit breakers share the client (cached states, named values), so more calls than
    # connections can arrive. The plain pool refuses those at once, which would count as failures of Redis.
    pool = ConnectionPool.from_url(
        url,
        max_connections=CALLS_AT_ONCE,
        timeout=timeout_seconds,
        socket_timeout=max(timeout_seconds, CONNECT_SECONDS),
        socket_connect_timeout=CONNECT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        decode_responses=False,
    )
    _read_certificates(pool)
    return Redis.from_pool(pool)


def _read_certificates(pool: ConnectionPool) -> None:
    """Read them now: it takes longer than a call may, and a file that is missing is a mistake in the settings."""
    connection = pool.make_connection()
    if isinstance(connection, SSLConnection):
        try:
            connection.ssl_context.get()
        except (OSError, ssl.SSLError) as error:
            reason = f"names a certificate that cannot be read: {type(error).__name__}"
            raise SettingsError("PERSISTENCE_REDIS_URL", reason) from error
