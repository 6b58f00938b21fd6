"""A TCP proxy between the clients and a server, which can cut, stall, refuse, and swallow a reply."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from torture.servers import free_port

# What asyncpg sends for COMMIT, alone and in one piece: it has waited for every answer before.
COMMIT = b"Q\x00\x00\x00\x0cCOMMIT;\x00"

DRIP, DRIP_SECONDS = 16, 0.002


def is_commit(sent: bytes) -> bool:
    return sent == COMMIT


def is_anything(_sent: bytes) -> bool:
    return True


@dataclass(eq=False)
class Link:
    """One client's connection and the one to the server behind it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    loses_reply: bool = False
    forgotten: bool = False
    deaf: bool = False

    def cut(self) -> None:
        self.client.transport.abort()
        self.server.transport.abort()


class Proxy:
    """Forwards to a server on this machine.

    Args:
        upstream: the port, the path of a socket, or another proxy, wherever that listens.
        loses: which requests ``lose_a_reply`` waits for.
        name: of the host, if it has one.

    Attributes:
        address: where it listens, together with its port.
    """

    def __init__(self, upstream: int | str | Proxy, loses: Callable[[bytes], bool], name: str = "") -> None:
        self.name = name
        self.port = free_port()
        self.address = "127.0.0.1"
        self._upstream = upstream
        self._loses = loses
        self._listener: asyncio.Server | None = None
        self._links: set[Link] = set()
        self._lost: asyncio.Event | None = None
        self._flows = asyncio.Event()
        self._flows.set()
        self._requests_left = 0
        self._trap: Callable[[Link], Awaitable[object]] | None = None
        self._silently = False
        self.requests = 0
        self.delay_seconds = 0.0
        self.drips = False

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, self.address, self.port)

    def refuse(self) -> None:
        """Close the port, as the death of a server does; a connection that loses its reply goes when it has."""
        if self._listener is not None:
            self._listener.close()
        for link in [link for link in self._links if not link.loses_reply]:
            link.cut()

    async def move(self, address: str) -> None:
        """Listen at another address with the same port, and not where it was."""
        self.refuse()
        self.address = address
        await self.listen()

    def lead_to(self, upstream: Proxy) -> None:
        """Forward to another one from now on."""
        self._upstream = upstream
        self.cut()

    def cut(self) -> int:
        """Cut every connection; say how many there were."""
        links = list(self._links)
        for link in links:
            link.cut()
        return len(links)

    def forget(self) -> None:
        """Pass nothing on any more on the connections of now, as a firewall does that has forgotten idle ones."""
        for link in self._links:
            link.forgotten = True

    def deafen(self) -> None:
        """Pass requests on and no reply any more, on the connections of now: one direction of a network is lost."""
        for link in self._links:
            link.deaf = True

    def stall(self) -> None:
        self._flows.clear()

    def flow(self) -> None:
        self._flows.set()

    def trap(self, request: int, action: Callable[[Link], Awaitable[object]]) -> None:
        """Do something when the nth request from now on has arrived, before it is forwarded."""
        self._requests_left, self._trap, self.requests = request, action, 0

    def release(self) -> None:
        """Forget the trap, and let everything flow."""
        self._trap = None
        self.flow()

    async def lose_a_reply(self, within_seconds: float, *, silently: bool = False) -> bool:
        """Forward the next request, then swallow its reply and cut the connection; say whether one came.

        Args:
            within_seconds: how long to wait for it.
            silently: leave the connection open, and pass no reply on any more.
        """
        self._lost, self._silently = asyncio.Event(), silently
        try:
            async with asyncio.timeout(within_seconds):
                await self._lost.wait()
        except TimeoutError:
            return False
        finally:
            self._lost = None
        return True

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        link = Link(writer, to_server)
        self._links.add(link)
        try:
            await asyncio.gather(self._requests(reader, link), self._replies(from_server, link))
        except OSError:
            pass  # one side broke off; the other one is told below
        finally:
            self._links.discard(link)
            link.cut()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        match self._upstream:
            case str(path):
                return await asyncio.open_unix_connection(path)
            case int(port):
                return await asyncio.open_connection("127.0.0.1", port)
            case proxy:
                return await asyncio.open_connection(proxy.address, proxy.port)

    async def _requests(self, reader: asyncio.StreamReader, link: Link) -> None:
        while sent := await reader.read(65536):
            self.requests += 1
            self._requests_left -= 1
            if self._trap is not None and self._requests_left == 0:
                await self._trap(link)
            await self._flows.wait()
            if link.forgotten:
                continue
            if self._lost is not None and not self._lost.is_set() and self._loses(sent):
                self._lost.set()
                link.deaf, link.loses_reply = self._silently, not self._silently
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            link.server.write(sent)
            await link.server.drain()
        link.cut()

    async def _replies(self, reader: asyncio.StreamReader, link: Link) -> None:
        while reply := await reader.read(65536):
            await self._flows.wait()
            if link.deaf:
                continue
            if link.loses_reply:
                break
            await self._pass_on(reply, link.client)
        link.cut()

    async def _pass_on(self, reply: bytes, client: asyncio.StreamWriter) -> None:
        pieces = [reply[start : start + DRIP] for start in range(0, len(reply), DRIP)] if self.drips else [reply]
        for piece in pieces:
            client.write(piece)
            await client.drain()
            if self.drips:
                await asyncio.sleep(DRIP_SECONDS)
