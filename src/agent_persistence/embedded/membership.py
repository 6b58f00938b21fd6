"""One process's share in the servers of a folder: joining starts them, the last to leave stops them."""

from __future__ import annotations

import os
from pathlib import Path

from agent_persistence.embedded.locks import exclusive_lock, lock_shared, open_lock, try_lock_exclusive
from agent_persistence.embedded.server_pair import EmbeddedServers, ServerPair


class Membership:
    """A share in the servers of a folder, held until it is left or the process ends."""

    def __init__(self, folder: Path, servers: ServerPair) -> None:
        self.uses = 0
        self._start_lock = folder / "start.lock"
        self._servers = servers
        self._share = open_lock(folder / "users.lock")
        lock_shared(self._share)

    @classmethod
    def join(cls, folder: Path, *, durable: bool) -> Membership:
        """Take a share and see to it that the servers run."""
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(folder / "start.lock"):
            servers = ServerPair(folder, durable=durable)
            membership = cls(folder, servers)
            try:
                servers.start()
            except BaseException:
                membership._give_up()
                raise
            return membership

    @property
    def addresses(self) -> EmbeddedServers:
        """Where the servers are."""
        return self._servers.addresses

    def leave(self) -> None:
        """Give the share up, and stop the servers if nobody else has one."""
        with exclusive_lock(self._start_lock):
            self._give_up()

    def abandon(self) -> None:
        """Drop a share that was inherited by a fork: it is the parent's, who keeps it."""
        os.close(self._share)

    def _give_up(self) -> None:
        try:
            if try_lock_exclusive(self._share):
                self._servers.stop()
        finally:
            os.close(self._share)
