"""A server says why it ends a connection before it closes it; in between, the driver refuses to use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hardening.hardening_servers import Store, errors_of_the_driver, migrated_settings, settings_of
from sqlalchemy import text
from torture.servers import PostgreSQL

from agent_persistence.persistence import Persistence

USER = "ada"


class Relay:
    """Passes on what both sides say, but not yet that the server closed the connection."""

    def __init__(self, server: PostgreSQL) -> None:
        self._server_port = server.port
        self.closed_by_server = asyncio.Event()
        self.may_close = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as listener:
            yield listener.sockets[0].getsockname()[1]

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        await asyncio.gather(_pass_on(client, to_server), self._answer(server, to_client))

    async def _answer(self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        while said := await server.read(65536):
            to_client.write(said)
        self.closed_by_server.set()
        await self.may_close.wait()
        to_client.close()


async def _pass_on(client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
    while said := await client.read(65536):
        to_server.write(said)
    to_server.close()


READ_AND_WRITE: dict[str, Callable[[Store], Awaitable[Any]]] = {
    "a read": lambda store: store.threads.page(user_id=USER),
    "a write": lambda store: store.threads.create(user_id=USER),
}


@pytest.mark.parametrize("call", READ_AND_WRITE.values(), ids=READ_AND_WRITE)
async def test_a_connection_whose_end_was_announced_is_no_caller_s_concern(
    postgresql: PostgreSQL, call: Callable[[Store], Awaitable[Any]]
) -> None:
    relay, database = Relay(postgresql), await migrated_settings(postgresql)
    assert database.database is not None
    async with relay.listening() as port:
        settings = settings_of(port, database.database.database or "", pool_size=1, max_overflow=0)
        async with Persistence[Any, Any](settings) as store:
            await call(store)
            async with store.engine.connect() as connection:
                pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await postgresql.fetch("SELECT pg_terminate_backend($1)", pid)
            await relay.closed_by_server.wait()
            await postgresql.fetch("SELECT 1")  # by now the client has read what the server said last

            with errors_of_the_driver(relay.may_close.set) as errors:
                await call(store)

    assert errors[0] == "InternalClientError"
