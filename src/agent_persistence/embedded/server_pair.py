"""The two servers of a folder, started and stopped together."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent_persistence.embedded.postgresql import PostgreSQL
from agent_persistence.embedded.server_user import server_user
from agent_persistence.embedded.socket_folder import forget_socket_folder, socket_folder
from agent_persistence.embedded.valkey import Valkey


@dataclass(frozen=True, slots=True)
class EmbeddedServers:
    """The addresses of the two servers of a folder, both over Unix sockets.

    Attributes:
        database_url: a ``postgresql://`` URL of the database ``agent_persistence``.
        redis_url: a ``unix://`` URL, as redis-py reads it.
    """

    database_url: str
    redis_url: str


class ServerPair:
    """PostgreSQL and Valkey of one folder. Callers ensure that one process at a time starts or stops them."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        user = server_user()
        self._folder = folder
        sockets = socket_folder(folder, user)
        self._postgresql = PostgreSQL(folder, sockets, user, durable=durable)
        self._valkey = Valkey(folder, sockets, user)
        self.addresses = EmbeddedServers(self._postgresql.url, self._valkey.url)

    def start(self) -> None:
        """Start the servers that do not run, and wait until both accept clients."""
        # Both are launched before either is waited for, so their starts overlap.
        self._valkey.launch()
        self._postgresql.launch()
        self._valkey.wait_until_it_answers()
        self._postgresql.wait_until_it_answers()

    def stop(self) -> None:
        """Stop the servers that run, the second one even if the first one fails to stop."""
        with ExitStack() as stops:
            stops.callback(self._valkey.stop)
            stops.callback(self._postgresql.stop)
        forget_socket_folder(self._folder)
