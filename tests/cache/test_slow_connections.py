"""A Redis whose connections take longer to make than a call may take: TLS, another zone, a busy machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from agent_persistence.cache.client import make_redis
from agent_persistence.embedded import EmbeddedServers
from agent_persistence.errors import SettingsError
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

SettingsFor = Callable[..., Awaitable[PersistenceSettings]]
DELAY = 0.15


class Door:
    """A proxy before Redis that lets each new connection wait, and counts them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.connections = 0
        self.writers: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.delay = DELAY

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._begin, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        yield f"redis://127.0.0.1:{port}?client_name=slow"
        server.close()
        self.cut()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self.writers:
            writer.close()

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        await asyncio.sleep(self.delay)
        with suppress(OSError):
            redis_reader, redis_writer = await asyncio.open_unix_connection(self._path)
            self.writers.add(redis_writer)
            await asyncio.gather(_pipe(reader, redis_writer), _pipe(redis_reader, writer))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def until_hit(store: Persistence[str, str], thread_id: str, user_id: str) -> None:
    """Read until the cache answers."""
    assert store.cache is not None
    before = store.cache.counts.hits
    async with asyncio.timeout(10):
        while store.cache.counts.hits == before:
            await store.states.require(thread_id, user_id=user_id)
            await asyncio.sleep(0.01)


async def test_a_connection_that_takes_longer_than_a_call_may_is_made_all_the_same(
    persistence: Persistence[str, str], settings_for: SettingsFor, servers: EmbeddedServers, user_id: str
) -> None:
    # By a store with another namespace: the quarantine of a save without Redis would keep the state from being cached.
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    await persistence.states.put(thread_id, 1, user_id=user_id)
    door = Door(servers.redis_url.removeprefix("unix://"))
    async with door.opened() as url:
        settings = await settings_for(redis_url=url, cache_timeout_ms=25, cache_budget_ms=50)
        async with Persistence[str, str](settings) as store:
            await until_hit(store, thread_id, user_id)
            made = door.connections
            door.cut()
            await until_hit(store, thread_id, user_id)

    assert made <= 5  # and not one for each call that was given up


async def test_a_connection_that_is_never_answered_is_given_up_and_closing_does_not_wait(
    settings_for: SettingsFor, servers: EmbeddedServers, user_id: str
) -> None:
    door = Door(servers.redis_url.removeprefix("unix://"))
    door.delay = 3600
    async with door.opened() as url:
        settings = await settings_for(redis_url=url, cache_timeout_ms=25, cache_budget_ms=50)
        store = await Persistence[str, str](settings).__aenter__()
        thread_id = (await store.threads.create(user_id=user_id)).thread_id
        assert await store.states.get(thread_id, user_id=user_id) is None

        async with asyncio.timeout(1):
            await store.aclose()


async def test_all_connections_share_the_certificates() -> None:
    client: Redis = make_redis("rediss://localhost:1?ssl_cert_reqs=none", timeout_seconds=1)
    one, other = (client.connection_pool.make_connection() for _ in range(2))

    assert isinstance(one.ssl_context.get(), ssl.SSLContext)
    assert one.ssl_context is other.ssl_context
    await client.aclose()


@pytest.mark.parametrize("name", ["missing.pem", "empty.pem"])
async def test_certificates_that_cannot_be_read_are_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.pem").touch()

    with pytest.raises(SettingsError, match="PERSISTENCE_REDIS_URL: names a certificate") as refusal:
        make_redis(f"rediss://:secret@localhost:1?ssl_ca_certs={tmp_path / name}", timeout_seconds=1)

    assert "secret" not in str(refusal.value)
