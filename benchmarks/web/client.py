"""An HTTP client that costs little: keep-alive connections to a Unix socket, and no more of HTTP than is needed."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any

import orjson

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_STATUS = slice(9, 12)
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Client:
    """Sends requests, each on a connection that no other uses at that time."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._idle: list[_Streams] = []

    async def get(self, path: str, token: str = "") -> Any:
        """GET a value of JSON."""
        return await self._send(b"GET", path, token, b"", b"200")

    async def post(self, path: str, token: str, body: Any) -> Any:
        """POST a value of JSON, which creates something."""
        return await self._send(b"POST", path, token, orjson.dumps(body), b"201")

    async def close(self) -> None:
        """Close the connections."""
        for _, writer in self._idle:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _send(self, method: bytes, path: str, token: str, body: bytes, expected: bytes) -> Any:
        head = b"%b %b HTTP/1.1\r\nhost: chat\r\nauthorization: Bearer %b\r\n" % (method, path.encode(), token.encode())
        if body:
            head += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        reader, writer = streams = self._idle.pop() if self._idle else await asyncio.open_unix_connection(self._socket)
        writer.write(head + b"\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(answer)
        content = await reader.readexactly(int(length[1]) if length else 0)
        self._idle.append(streams)
        if answer[_STATUS] != expected:
            raise RuntimeError(f"{method.decode()} {path}: {answer[_STATUS].decode()} {content.decode()[:200]}")
        return orjson.loads(content)
