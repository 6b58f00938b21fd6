"""The Redis checkpointer; see ``agent_persistence.backends.redis``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Self
from urllib.parse import quote

from agent_persistence.backends.base import BaseCheckpointer, StateToSave, ThreadRow, checkpoint
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.backends.redis import scripts
from agent_persistence.backends.redis.script_runner import Client, ScriptRunner, make_client
from agent_persistence.checkpointer import Capability, Checkpoint
from agent_persistence.embedded.addresses import ServerAddresses
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.errors import InvalidInputError, StateConflictError
from agent_persistence.ids import STRING
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings


class RedisCheckpointer(BaseCheckpointer):
    """A checkpointer that keeps the states of one owner in Redis or Valkey.

    The server must not evict (``maxmemory-policy noeviction``): it would evict threads, or the owner's list of them.
    Which saves survive a crash of the server depends on its persistence (AOF, RDB).

    Args:
        user_id: the owner.
        client: the application's client, a ``RedisCluster`` too; it must return bytes, and is not closed.
        url: ``redis://``, ``rediss://`` or ``unix://``, in place of ``client``; ``aclose`` closes its pool.
        namespace: the first part of every key.
        limits: how much to keep, and for how long.
        retry_seconds: how long a call is retried while Redis restarts or fails over.

    Raises:
        InvalidInputError: an argument is wrong, or both or neither of ``client`` and ``url`` are given.
    """

    capabilities: ClassVar = frozenset(Capability)
    _store_name: ClassVar = "redis"

    def __init__(
        self,
        *,
        user_id: str,
        client: Client | None = None,
        url: str | None = None,
        namespace: str = "agent_persistence",
        limits: CheckpointLimits | None = None,
        retry_seconds: float = 15.0,
    ) -> None:
        super().__init__(user_id, namespace, limits)
        # The braces make the owner the hash tag: all keys of an owner are in one slot, as each script needs.
        self._prefix = f"{self._namespace}:checkpoints:{{{quote(self._owner, safe='')}}}"
        self._closing = AsyncExitStack()
        if client is None and url is not None:
            client = make_client(url, PersistenceSettings())
            self._closing.push_async_callback(client.aclose)
        elif client is None or url is not None:
            raise InvalidInputError("client", "give either client or url")
        self._scripts = ScriptRunner(client, retry_seconds=retry_seconds)
        self._closing.callback(self._scripts.close)

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Create a checkpointer for ``PERSISTENCE_REDIS_URL``, with a pool of the size of the database's.

        Args:
            settings: the URL, the namespace, the limits, the size of the pool, and the timeouts.
            user_id: the owner.

        Raises:
            SettingsError: ``PERSISTENCE_REDIS_URL`` is not set.
        """
        STRING.validate(user_id, "user_id")  # before anything is opened that nothing would close
        closing = AsyncExitStack()
        servers = ServerAddresses(settings, needs_database=False)
        closing.callback(servers.close)
        client = make_client(servers.required_redis_url, settings)
        closing.push_async_callback(client.aclose)
        created = cls(
            user_id=user_id,
            client=client,
            namespace=settings.namespace,
            limits=CheckpointLimits.from_settings(settings),
            retry_seconds=settings.retry_deadline,
        )
        created._closing.push_async_exit(closing)
        return created

    async def aclose(self) -> None:
        """Close the pool, unless the client was given."""
        await self._closing.aclose()

    async def _save(self, new: StateToSave) -> Checkpoint:
        token = os.urandom(16).hex()  # one for all attempts, by which the script recognises that an earlier one has run
        expected, lifetime = ("" if value is None else value for value in (new.expected, new.lifetime))
        arguments = (new.thread_id, new.json, token, expected, lifetime, self._limits.max_history)
        is_saved, version, *times = await self._scripts.write(scripts.SAVE, self._keys(new.thread_id), *arguments)
        if not is_saved:
            raise StateConflictError(new.thread_id, int(expected), int(version))
        return _checkpoint(new.thread_id, version, times[0], new.state)

    async def _load(self, thread_id: str, version: int | None) -> Checkpoint | None:
        wanted = "" if version is None else version
        found = await self._scripts.read(scripts.LOAD, self._keys(thread_id)[:1], wanted)
        return _decoded(thread_id, *found) if found else None

    async def _delete(self, thread_id: str) -> bool:
        # Not retried after a lost reply: a second run would answer that there was no thread.
        return bool(await self._scripts.write_once(scripts.DELETE, self._keys(thread_id), thread_id))

    async def _list(self, count: int, start: int | None) -> list[ThreadRow]:
        upper = "+inf" if start is None else f"({start}"
        rows: list[ThreadRow] = []
        while missing := count - len(rows):  # again, if the server evicted some of those listed
            listed = await self._scripts.read(scripts.LIST, self._sets, upper, missing)
            if not listed:
                break
            rows += await self._rows(listed[::2], listed[1::2])
            upper = f"({int(listed[-1])}"
        return rows

    async def _history(self, thread_id: str, limit: int, before: int | None) -> Page[Checkpoint]:
        start = "" if before is None else before
        words = await self._scripts.read(scripts.HISTORY, self._keys(thread_id)[:1], start, limit + 1)
        versions, states = words[::2], words[1::2]
        items = tuple(_decoded(thread_id, *state) for state in zip(versions[:limit], states[:limit], strict=True))
        return Page(items, None, self._states_cursor([int(version) for version in versions], limit))

    async def _rows(self, names: Sequence[bytes], updated: Sequence[bytes]) -> list[ThreadRow]:
        """Add when each thread was created; leave out those that no longer exist.

        A second script, because the keys of threads are known only after the list was read, and on a Cluster a script
        may use only the keys that it was called with.
        """
        ids = [name.decode() for name in names]
        keys = [*self._sets, *(self._keys(thread_id)[0] for thread_id in ids)]
        created = await self._scripts.read(scripts.LOOK, keys, *ids)
        return [
            ThreadRow(int(saved), thread_id, int(begun))
            for saved, thread_id, begun in zip(updated, ids, created, strict=True)
            if begun
        ]

    @property
    def _sets(self) -> tuple[str, str]:
        return f"{self._prefix}:threads", f"{self._prefix}:expiries"

    def _keys(self, thread_id: str) -> tuple[str, str, str]:
        return f"{self._prefix}:thread:{quote(thread_id, safe='')}", *self._sets


def _decoded(thread_id: str, version: bytes, value: bytes) -> Checkpoint:
    times, _, json = value.partition(b"\n")  # exact JSON has no line ends
    return _checkpoint(thread_id, version, times, decode_json(json))


def _checkpoint(thread_id: str, version: bytes, times: bytes, state: Any) -> Checkpoint:
    created, _, expires = times.partition(b" ")
    return checkpoint(thread_id, int(version), state, int(created), int(expires) if expires else None)
