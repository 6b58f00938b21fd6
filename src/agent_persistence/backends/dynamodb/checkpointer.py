"""``DynamoDBCheckpointer``."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any, ClassVar, Final, Self

from agent_persistence.backends.dynamodb.bodies import pack
from agent_persistence.backends.dynamodb.calls import ConditionNotMetError, Table, open_client
from agent_persistence.backends.dynamodb.items import INDEX, Keys, State, Thread, deleted, number, unchanged
from agent_persistence.backends.dynamodb.saving import NewState
from agent_persistence.backends.dynamodb.states import States
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint, Checkpointer, ThreadSummary
from agent_persistence.concurrency.affinity import Affinity
from agent_persistence.concurrency.retries import LostReplyRetries
from agent_persistence.encoding.cursors import decode_cursor, encode_cursor
from agent_persistence.encoding.timestamps import MICROSECONDS, moment, moment_or_none
from agent_persistence.errors import (
    CommitUnknownError,
    CorruptRowError,
    InvalidInputError,
    MisuseError,
    PersistenceError,
    StateConflictError,
)
from agent_persistence.ids import STRING
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_limit, check_namespace, check_version

_THREADS: Final = "dynamodb threads"
_STATES: Final = "dynamodb states"
_LONGEST_PAUSE: Final = 0.2


class DynamoDBCheckpointer(Checkpointer):
    """Keeps the states of one owner in a table of DynamoDB.

    Threads are listed by the clocks of those who save, and expire by them: keep these right. Credentials are found as
    the AWS libraries find them.

    Args:
        user_id: the owner.
        client: a DynamoDB client of aiobotocore's, the host's own; used and not closed.
        table: the name of the table, which ``create_table`` makes.
        endpoint_url, region: where it is, unless a client is given.
        namespace: the first part of every key.
        limits: how much to keep, and for how long.
        retry_seconds: for how long a call is tried again while DynamoDB is away.
        clock: seconds since 1970; a test may pass one of its own.
    """

    capabilities: ClassVar = frozenset(Capability)

    def __init__(
        self,
        *,
        user_id: str,
        client: Any = None,
        table: str = "agent_persistence",
        endpoint_url: str | None = None,
        region: str | None = None,
        namespace: str = "agent_persistence",
        limits: CheckpointLimits | None = None,
        retry_seconds: float = 15.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if client is not None and (endpoint_url or region):
            raise InvalidInputError("client", "give either client, or endpoint_url and region")
        self._keys = Keys(check_namespace(namespace, "namespace"), STRING.validate(user_id, "user_id"))
        self._limits = limits or CheckpointLimits()
        self._clock = clock
        self._repeating = LostReplyRetries(retry_seconds)
        self._home = Affinity()
        self._closing = AsyncExitStack()
        self._name = table
        self._where = endpoint_url, region
        self._opened = None if client is None else Table(client, table)

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Make one for ``PERSISTENCE_DYNAMODB_TABLE``; nothing connects yet."""
        return cls(
            user_id=user_id,
            table=settings.dynamodb_table,
            endpoint_url=settings.dynamodb_endpoint_url,
            region=settings.dynamodb_region,
            namespace=settings.namespace,
            limits=CheckpointLimits.from_settings(settings),
            retry_seconds=settings.retry_deadline,
        )

    @classmethod
    def from_env(cls, *, user_id: str) -> Self:
        """Make one from ``PERSISTENCE_*`` and ``.env``; nothing connects yet."""
        return cls.from_settings(PersistenceSettings(), user_id=user_id)

    async def __aenter__(self) -> Self:
        self._home.check()
        if self._opened is None:
            self._opened = Table(await open_client(self._closing, *self._where), self._name)
        return self

    async def create_table(self) -> None:
        """Create the table unless it exists: with on-demand billing, and items that expire.

        Raises:
            UnavailableError: DynamoDB cannot be reached.
            DatabaseError: it refused.
        """
        await self._repeating.read(self._table.create)

    async def save_state(
        self, thread_id: str, state: Any, *, expected_version: int | None = None, ttl: float | None = None
    ) -> Checkpoint:
        """Save a state as the thread's latest; see ``Checkpointer``."""
        STRING.validate(thread_id, "thread_id")
        lifetime = self._limits.lifetime(ttl)
        if expected_version is not None:
            check_version(expected_version, "expected_version")
        cleaned = self._limits.clean(state)
        new = NewState(thread_id, await pack(self._limits.encode(cleaned)), expected_version, lifetime)
        try:
            saved = await self._repeating.write(lambda: self._save(new))
        except CommitUnknownError:
            raise
        except PersistenceError:
            with suppress(PersistenceError):  # nothing refers to them
                await self._states.drop_parts(new)
            raise
        return _checkpoint(thread_id, saved, cleaned)

    async def load_state(self, thread_id: str, *, version: int | None = None) -> Checkpoint | None:
        """Return the thread's latest state, or that of a version; see ``Checkpointer``."""
        STRING.validate(thread_id, "thread_id")
        if version is not None:
            check_version(version, "version")
        return await self._repeating.read(lambda: self._load(thread_id, version))

    async def delete_thread(self, thread_id: str) -> bool:
        """Delete a thread with all its states; see ``Checkpointer``.

        It is gone at once. Should this fail before all its states are removed, call it again.
        """
        STRING.validate(thread_id, "thread_id")
        token, existed = uuid.uuid4().hex, False

        async def attempt() -> None:
            nonlocal existed
            doomed = await self._doom(thread_id, token)
            if doomed is not None:
                existed = existed or doomed.deleted == token
                await self._remove(thread_id, doomed)

        await self._repeating.write(attempt)
        return existed

    async def list_threads(self, *, limit: int = 20, after: str | None = None) -> Page[ThreadSummary]:
        """List the owner's threads, that of the latest save first; see ``Checkpointer``."""
        check_limit(limit, "limit", 1000)
        start = {} if after is None else {"ExclusiveStartKey": self._position(after)}
        found = await self._repeating.read(lambda: self._list(limit + 1, start))
        items = tuple(
            ThreadSummary(thread_id, moment(thread.created), moment(thread.updated))
            for thread_id, thread in found[:limit]
        )
        if len(found) <= limit:
            return Page(items)
        thread_id, thread = found[limit - 1]
        return Page(items, None, encode_cursor(_THREADS, thread.updated, thread_id))

    async def state_history(self, thread_id: str, *, limit: int = 20, after: str | None = None) -> Page[Checkpoint]:
        """List a thread's states, the latest first; see ``Checkpointer``."""
        STRING.validate(thread_id, "thread_id")
        check_limit(limit, "limit", 1000)
        before = None if after is None else decode_cursor(after, _STATES, "after", int)
        return await self._repeating.read(lambda: self._history(thread_id, limit, before))

    async def aclose(self) -> None:
        """Close the client, if it was made here."""
        self._home.close()
        await self._closing.aclose()

    @property
    def _table(self) -> Table:
        self._home.check()
        if self._opened is None:
            raise MisuseError("this checkpointer is not open; use it in an async with block, or give it a client")
        return self._opened

    @property
    def _states(self) -> States:
        return States(self._table, self._keys)

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)

    async def _thread(self, thread_id: str) -> Thread | None:
        item = await self._table.get(self._keys.thread(thread_id))
        return None if item is None else Thread.of(item)

    async def _save(self, new: NewState) -> State:
        pause = 0.005
        while True:
            before, now = await self._thread(new.thread_id), self._now()
            if before is not None and (done := before.version_of(new.token)) is not None:
                return await self._done(new, before, done)
            live = before if before is not None and before.lives(now) else None
            found = live.version if live else 0
            if new.expected is not None and new.expected != found:
                raise StateConflictError(new.thread_id, new.expected, found)
            thread = new.thread(before, live, now, keep=self._limits.max_history)
            await self._states.put_parts(new, thread)
            try:
                return await self._put(new, before, thread)
            except ConditionNotMetError:  # another writer was faster: look again
                await asyncio.sleep(pause * random.random())
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _done(self, new: NewState, thread: Thread, version: int) -> State:
        """Return the state that an attempt whose reply was lost has saved."""
        saved = new.state(thread)
        if version == thread.version:
            return saved
        return await self._states.get(thread.states, version) or replace(saved, version=version)

    async def _put(self, new: NewState, before: Thread | None, thread: Thread) -> State:
        state = new.state(thread)
        await self._table.put_together(
            thread.item(self._keys.thread(new.thread_id)),
            unchanged(before),
            state.item(self._keys.state(thread.states, thread.version)),
        )
        if before is not None:
            with suppress(PersistenceError):  # it is out of reach already
                await self._clear(before, thread)
        return state

    async def _clear(self, before: Thread, after: Thread) -> None:
        """Remove what a save has put out of reach."""
        if before.states != after.states:
            await self._states.purge(before.states)
        elif before.oldest < after.oldest:
            await self._states.trim(before.states, before.oldest, after.oldest)

    async def _load(self, thread_id: str, version: int | None) -> Checkpoint | None:
        seen: Thread | None = None
        while True:
            thread, now = await self._thread(thread_id), self._now()
            if thread is None or not thread.lives(now):
                return None
            wanted = thread.version if version is None else version
            if not thread.oldest <= wanted <= thread.version:
                return None
            state = await self._states.get(thread.states, wanted)
            if state is not None and not state.lives(now):
                return None
            if state is None and wanted != thread.version:  # expired, and removed by DynamoDB
                return None
            found = None if state is None else await self._read(thread_id, thread, state)
            if isinstance(found, Checkpoint):
                return found
            if thread == seen:
                raise CorruptRowError("DynamoDB", (thread_id, wanted), "body")
            seen = thread  # it was saved or deleted between two reads

    async def _history(self, thread_id: str, limit: int, before: int | None) -> Page[Checkpoint]:
        seen: Thread | None = None
        while True:
            thread, now = await self._thread(thread_id), self._now()
            if thread is None or not thread.lives(now):
                return Page(())
            newest = thread.version if before is None else min(thread.version, before - 1)
            found = await self._states.newest(thread.states, thread.oldest, newest, limit + 1, now)
            states = [await self._read(thread_id, thread, state) for state in found[:limit]]
            corrupt = tuple(state for state in states if isinstance(state, CorruptRowError))
            if not corrupt or thread == seen:
                items = tuple(state for state in states if isinstance(state, Checkpoint))
                more = encode_cursor(_STATES, found[limit - 1].version) if len(found) > limit else None
                return Page(items, None, more, corrupt)
            seen = thread  # it was saved or deleted between two reads

    async def _read(self, thread_id: str, thread: Thread, state: State) -> Checkpoint | CorruptRowError:
        try:
            return _checkpoint(thread_id, state, await self._states.read(thread.states, state))
        except ValueError:
            return CorruptRowError("DynamoDB", (thread_id, state.version), "body")

    async def _list(self, count: int, start: dict[str, Any]) -> list[tuple[str, Thread]]:
        found: list[tuple[str, Thread]] = []
        now = self._now()
        items = self._table.query(
            IndexName=INDEX,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": self._keys.threads},
            ScanIndexForward=False,
            Limit=count,
            **start,
        )
        async for item in items:
            thread = Thread.of(item)
            if thread.lives(now):
                found.append((item["sk"]["S"], thread))
            if len(found) == count:
                break
        return found

    async def _doom(self, thread_id: str, token: str) -> Thread | None:
        """Make a thread disappear; return it if there is something left to remove."""
        now = self._now()
        while True:
            with suppress(ConditionNotMetError):  # it is not there, or gone already
                await self._table.update(self._keys.thread(thread_id), **deleted(token, now))
            thread = await self._thread(thread_id)
            if thread is None or not thread.lives(now):
                return thread

    async def _remove(self, thread_id: str, doomed: Thread) -> None:
        await self._states.purge(doomed.states)
        with suppress(ConditionNotMetError):  # it has begun anew meanwhile
            await self._table.delete(self._keys.thread(thread_id), **unchanged(doomed))

    def _position(self, cursor: str) -> dict[str, Any]:
        def read(updated: int, thread_id: str) -> dict[str, Any]:
            return {**self._keys.thread(STRING.validate(thread_id, "after")), "updated": number(int(updated))}

        return decode_cursor(cursor, _THREADS, "after", read)


def _checkpoint(thread_id: str, found: State, state: Any) -> Checkpoint:
    return Checkpoint(thread_id, found.version, state, moment(found.created), moment_or_none(found.expires))
