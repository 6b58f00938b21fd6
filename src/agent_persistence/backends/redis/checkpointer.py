"""``RedisCheckpointer``."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Final, Self
from urllib.parse import quote

from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.backends.redis import scripts
from agent_persistence.backends.redis.calls import Calls, Client, make_client
from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.embedded.addresses import ServerAddresses
from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.encoding.exact_json import decode_json
from agent_persistence.encoding.timestamps import MICROSECONDS, moment, moment_or_none
from agent_persistence.errors import InvalidInputError, StateConflictError
from agent_persistence.ids import STRING
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_limit, check_namespace, check_version

_THREADS: Final = "redis threads"
_STATES: Final = "redis states"


class RedisCheckpointer(Checkpointer):
    """Keeps the states of one owner in Redis or Valkey.

    The server must not evict (``maxmemory-policy noeviction``): it would take threads, or the list of them, away. What
    survives a crash of the server is what its persistence (AOF, RDB) says.

    Args:
        user_id: the owner.
        client: one of the host's, of bytes, a ``RedisCluster`` too; used and not closed.
        url: ``redis://``, ``rediss://`` or ``unix://`` instead; its pool is closed with the checkpointer.
        namespace: the first part of every key.
        limits: how much to keep, and for how long.
        retry_seconds: for how long a call is tried again while Redis restarts or fails over.
    """

    capabilities: ClassVar = frozenset(Capability)

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
        owner = STRING.validate(user_id, "user_id")
        self._prefix = f"{check_namespace(namespace, 'namespace')}:checkpoints:{{{quote(owner, safe='')}}}"
        self._limits = limits or CheckpointLimits()
        self._closing = AsyncExitStack()
        if client is None and url is not None:
            client = make_client(url, PersistenceSettings())
            self._closing.push_async_callback(client.aclose)
        elif client is None or url is not None:
            raise InvalidInputError("client", "give either client or url")
        self._calls = Calls(client, retry_seconds=retry_seconds)
        self._closing.callback(self._calls.close)

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Make one for ``PERSISTENCE_REDIS_URL``, with a pool as the database would have.

        Raises:
            SettingsError: it is not set.
        """
        STRING.validate(user_id, "user_id")  # before anything is opened
        closing = AsyncExitStack()
        servers = ServerAddresses(settings, needs_database=False)
        closing.callback(servers.close)
        client = make_client(servers.required_redis_url, settings)
        closing.push_async_callback(client.aclose)
        limits = CheckpointLimits.from_settings(settings)
        made = cls(
            user_id=user_id,
            client=client,
            namespace=settings.namespace,
            limits=limits,
            retry_seconds=settings.retry_deadline,
        )
        made._closing.push_async_exit(closing)
        return made

    @classmethod
    def from_env(cls, *, user_id: str) -> Self:
        """Make one from ``PERSISTENCE_*`` and ``.env``."""
        return cls.from_settings(PersistenceSettings(), user_id=user_id)

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``."""
        keys, lifetime = self._keys(thread_id), self._limits.lifetime(ttl)
        expected = "" if expected_version is None else check_version(expected_version, "expected_version")
        cleaned = self._limits.clean(state)
        json = self._limits.encode(cleaned)
        token, keep = os.urandom(16).hex(), self._limits.max_history
        microseconds = "" if lifetime is None else int(lifetime * MICROSECONDS)
        is_saved, version, *times = await self._calls.write(
            scripts.SAVE, keys, thread_id, json, token, expected, microseconds, keep
        )
        if not is_saved:
            raise StateConflictError(thread_id, int(expected), int(version))
        return _checkpoint(thread_id, version, times[0], cleaned)

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or that of a version; see ``Checkpointer``."""
        wanted = "" if version is None else check_version(version, "version")
        found = await self._calls.read(scripts.LOAD, self._keys(thread_id)[:1], wanted)
        return _decoded(thread_id, *found) if found else None

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states; see ``Checkpointer``."""
        return bool(await self._calls.write_once(scripts.DELETE, self._keys(thread_id), thread_id))

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, that of the latest save first; see ``Checkpointer``."""
        check_limit(limit, "limit", 1000)
        upper = "+inf" if after is None else f"({decode_cursor(after, _THREADS, 'after', int)}"
        found: list[tuple[ThreadSummary, int]] = []
        while missing := limit + 1 - len(found):
            listed = await self._calls.read(scripts.LIST, self._sets, upper, missing)
            if not listed:
                break
            found += await self._look([(raw.decode(), int(updated)) for raw, updated in _pairs(listed)])
            upper = f"({int(listed[-1])}"
        more = encode_cursor(_THREADS, found[limit - 1][1]) if len(found) > limit else None
        return Page(tuple(thread for thread, _ in found[:limit]), None, more)

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        keys = self._keys(thread_id)[:1]
        check_limit(limit, "limit", 1000)
        before = "" if after is None else decode_cursor(after, _STATES, "after", int)
        found = _pairs(await self._calls.read(scripts.HISTORY, keys, before, limit + 1))
        items = tuple(_decoded(thread_id, *state) for state in found[:limit])
        return Page(items, None, encode_cursor(_STATES, items[-1].version) if len(found) > limit else None)

    async def aclose(self) -> None:
        """Close the pool, if it was made here."""
        await self._closing.aclose()

    async def _look(self, listed: list[tuple[str, int]]) -> list[tuple[ThreadSummary, int]]:
        """Add when each thread began; leave out those that are gone."""
        ids = [thread_id for thread_id, _ in listed]
        keys = [*self._sets, *(self._keys(thread_id)[0] for thread_id in ids)]
        began = await self._calls.read(scripts.LOOK, keys, *ids)
        return [
            (ThreadSummary(thread_id, moment(int(created)), moment(updated)), updated)
            for (thread_id, updated), created in zip(listed, began, strict=True)
            if created
        ]

    @property
    def _sets(self) -> tuple[str, str]:
        return f"{self._prefix}:threads", f"{self._prefix}:expiries"

    def _keys(self, thread_id: str) -> tuple[str, str, str]:
        quoted = quote(STRING.validate(thread_id, "thread_id"), safe="")
        return f"{self._prefix}:thread:{quoted}", *self._sets


def _pairs(words: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(words[::2], words[1::2], strict=True))


def _decoded(thread_id: str, version: bytes, held: bytes) -> Checkpoint:
    times, _, json = held.partition(b"\n")
    return _checkpoint(thread_id, version, times, decode_json(json))


def _checkpoint(thread_id: str, version: bytes, times: bytes, state: Any) -> Checkpoint:
    created, _, expires = times.partition(b" ")
    ends = moment_or_none(int(expires) if expires else None)
    return Checkpoint(thread_id, int(version), state, moment(int(created)), ends)
