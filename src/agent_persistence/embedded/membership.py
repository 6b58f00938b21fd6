"""A process's membership in the servers of a folder: joining starts them, the last one to leave stops them."""

from __future__ import annotations

import os
from pathlib import Path

from agent_persistence.embedded.locks import exclusive_lock, lock_shared, open_lock, try_lock_exclusive
from agent_persistence.embedded.ownership import make_own_folder
from agent_persistence.embedded.server_pair import EmbeddedServers, ServerPair


class Membership:
    """A share of a folder's lock, held until ``leave`` or the end of the process."""

    def __init__(self, folder: Path, servers: ServerPair) -> None:
        self.uses = 0
        self._start_lock = folder / "start.lock"
        self._servers = servers
        self._share = open_lock(folder / "users.lock")
        lock_shared(self._share)

    @classmethod
    def join(cls, folder: Path, *, durable: bool) -> Membership:
        """Take a share, and start the servers if they do not run."""
        make_own_folder(folder)
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
        """The addresses of the servers."""
        return self._servers.addresses

    def leave(self) -> None:
        """Release the share, and stop the servers if no other process holds one."""
        # Under the start lock, because another process could join between the test of the shares and the stop.
        with exclusive_lock(self._start_lock):
            self._give_up()

    def abandon(self) -> None:
        """Drop a share that was inherited by a fork; the parent keeps it."""
        os.close(self._share)

    def _give_up(self) -> None:
        try:
            if try_lock_exclusive(self._share):
                self._servers.stop()
        finally:
            os.close(self._share)
