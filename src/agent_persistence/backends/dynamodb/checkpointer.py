"""The DynamoDB checkpointer; see ``agent_persistence.backends.dynamodb``."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Final, Self

from agent_persistence.backends.base import BaseCheckpointer, StateToSave, ThreadRow, checkpoint, is_alive
from agent_persistence.backends.dynamodb.bodies import encode_body
from agent_persistence.backends.dynamodb.items import INDEX, Keys, State, Thread, deleted, number, unchanged
from agent_persistence.backends.dynamodb.states import States
from agent_persistence.backends.dynamodb.table import ConditionNotMetError, Table, open_client
from agent_persistence.backends.dynamodb.writes import Deletion, StateWrite
from agent_persistence.backends.limits import CheckpointLimits
from agent_persistence.checkpointer import Capability, Checkpoint
from agent_persistence.concurrency.affinity import Affinity
from agent_persistence.concurrency.retries import LostReplyRetries
from agent_persistence.encoding.timestamps import MICROSECONDS
from agent_persistence.errors import (
    CommitUnknownError,
    CorruptRowError,
    InvalidInputError,
    MisuseError,
    PersistenceError,
)
from agent_persistence.ids import STRING
from agent_persistence.records import Page
from agent_persistence.settings import PersistenceSettings

_LONGEST_PAUSE: Final = 0.2


class DynamoDBCheckpointer(BaseCheckpointer):
    """A checkpointer that keeps the states of one owner in a table of DynamoDB.

    The clocks of the writing machines order the list of threads and decide what has expired: synchronise them.
    Credentials are found as all AWS libraries find them.

    Args:
        user_id: the owner.
        client: the application's aiobotocore client of DynamoDB; it is not closed.
        table: the name of the table, which ``create_table`` creates.
        endpoint_url: the address of a server other than AWS, unless a client is given.
        region: the AWS region, unless a client is given.
        namespace: the first part of every key.
        limits: how much to keep, and for how long.
        retry_seconds: how long a call is retried while DynamoDB is unavailable.
        clock: returns seconds since 1970; a test passes its own to let states expire.

    Raises:
        InvalidInputError: an argument is wrong, or a client is given together with its address.
    """

    capabilities: ClassVar = frozenset(Capability)
    _store_name: ClassVar = "dynamodb"
    _cursor_columns: ClassVar = 2

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
        super().__init__(user_id, namespace, limits)
        self._keys = Keys(self._namespace, self._owner)
        self._clock = clock
        self._retries = LostReplyRetries(retry_seconds)
        self._affinity = Affinity()
        self._closing = AsyncExitStack()
        self._table_name = table
        self._address = endpoint_url, region
        self._opened = None if client is None else Table(client, table)

    @classmethod
    def from_settings(cls, settings: PersistenceSettings, *, user_id: str) -> Self:
        """Create a checkpointer for ``PERSISTENCE_DYNAMODB_TABLE``; entering it opens a client.

        Args:
            settings: the table, its address, the namespace, and the limits.
            user_id: the owner.
        """
        return cls(
            user_id=user_id,
            table=settings.dynamodb_table,
            endpoint_url=settings.dynamodb_endpoint_url,
            region=settings.dynamodb_region,
            namespace=settings.namespace,
            limits=CheckpointLimits.from_settings(settings),
            retry_seconds=settings.retry_deadline,
        )

    async def __aenter__(self) -> Self:
        self._affinity.check()
        if self._opened is None:
            self._opened = Table(await open_client(self._closing, *self._address), self._table_name)
        return self

    async def create_table(self) -> None:
        """Create the table unless it exists: billed by request, with a time to live for items.

        Raises:
            UnavailableError: DynamoDB cannot be reached, or the table is not ready in time.
            DatabaseError: DynamoDB refused.
        """
        await self._retries.read(self._table.create)

    async def aclose(self) -> None:
        """Close the client, unless it was given."""
        self._affinity.close()
        await self._closing.aclose()

    @property
    def _table(self) -> Table:
        self._affinity.check()
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

    # --- saving ---

    async def _save(self, new: StateToSave) -> Checkpoint:
        write = StateWrite(new, await encode_body(new.json))
        try:
            saved = await self._retries.write(partial(self._save_once, write))
        except CommitUnknownError:
            raise  # the state may have been saved, and then needs its parts
        except PersistenceError:
            with suppress(PersistenceError):  # parts that stay cost space until the thread is deleted, nothing else
                await self._states.drop_parts(write)
            raise
        return checkpoint(new.thread_id, saved.version, new.state, saved.created, saved.expires)

    async def _save_once(self, write: StateWrite) -> State:
        """Make one attempt at a save, which reads again after each write of another writer."""
        pause = 0.005
        while True:
            before, now = await self._thread(write.new.thread_id), self._now()
            # First of all: after a lost reply the expected version has passed, by this very save.
            if before is not None and (version := before.version_of(write.token)) is not None:
                return await self._saved_before(write, before, version)
            live = before if before is not None and before.lives(now) else None
            write.new.check_version(live.version if live else 0)
            thread = write.thread(before, live, now, keep=self._limits.max_history)
            await self._states.put_parts(write, thread)
            try:
                return await self._put(write, before, thread)
            except ConditionNotMetError:
                # Another writer was faster. A random pause, because writers that collided would collide again.
                await asyncio.sleep(pause * random.random())
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def _saved_before(self, write: StateWrite, thread: Thread, version: int) -> State:
        """Return the state that an attempt whose reply was lost has saved."""
        saved = write.state(thread)
        if version == thread.version:
            return saved
        # A later save may already have removed it, with max_history; then its times are those of the later one.
        return await self._states.get(thread.states, version) or replace(saved, version=version)

    async def _put(self, write: StateWrite, before: Thread | None, thread: Thread) -> State:
        state = write.state(thread)
        # A transaction is billed twice, but without it a crash would leave a thread whose latest state is missing.
        await self._table.put_together(
            thread.item(self._keys.thread(write.new.thread_id)),
            unchanged(before),
            state.item(self._keys.state(thread.states, thread.version)),
        )
        if before is not None:
            with suppress(PersistenceError):  # the save has succeeded, and readers no longer see what stays
                await self._clean_up(before, thread)
        return state

    async def _clean_up(self, before: Thread, after: Thread) -> None:
        """Remove the states that a save has made unreachable."""
        if before.states != after.states:
            await self._states.purge(before.states)
        elif before.oldest < after.oldest:
            await self._states.trim(before.states, before.oldest, after.oldest)

    # --- reading ---

    async def _load(self, thread_id: str, version: int | None) -> Checkpoint | None:
        return await self._retries.read(partial(self._load_once, thread_id, version))

    async def _load_once(self, thread_id: str, version: int | None) -> Checkpoint | None:
        seen: Thread | None = None
        while True:
            thread, now = await self._thread(thread_id), self._now()
            if thread is None or not thread.lives(now):
                return None
            wanted = thread.version if version is None else version
            if not thread.oldest <= wanted <= thread.version:
                return None
            state = await self._states.get(thread.states, wanted)
            if state is not None and not is_alive(state.expires, now):
                return None
            if state is None and wanted != thread.version:  # expired, and removed by DynamoDB
                return None
            found = None if state is None else await self._read(thread_id, thread, state)
            if isinstance(found, Checkpoint):
                return found
            # Either a save or deletion came between two reads, and has changed the thread, or the row is corrupt.
            if thread == seen:
                raise CorruptRowError("DynamoDB", (thread_id, wanted), "body")
            seen = thread

    async def _history(self, thread_id: str, limit: int, before: int | None) -> Page[Checkpoint]:
        return await self._retries.read(partial(self._history_once, thread_id, limit, before))

    async def _history_once(self, thread_id: str, limit: int, before: int | None) -> Page[Checkpoint]:
        seen: Thread | None = None
        while True:
            thread, now = await self._thread(thread_id), self._now()
            if thread is None or not thread.lives(now):
                return Page(())
            newest = thread.version if before is None else min(thread.version, before - 1)
            found = await self._states.newest(thread.states, thread.oldest, newest, limit + 1, now)
            states = [await self._read(thread_id, thread, state) for state in found[:limit]]
            corrupt = tuple(state for state in states if isinstance(state, CorruptRowError))
            if not corrupt or thread == seen:  # as in _load_once
                items = tuple(state for state in states if isinstance(state, Checkpoint))
                return Page(items, None, self._states_cursor([state.version for state in found], limit), corrupt)
            seen = thread

    async def _read(self, thread_id: str, thread: Thread, state: State) -> Checkpoint | CorruptRowError:
        try:
            content = await self._states.read(thread.states, state)
        except ValueError:
            return CorruptRowError("DynamoDB", (thread_id, state.version), "body")
        return checkpoint(thread_id, state.version, content, state.created, state.expires)

    async def _list(self, count: int, start: Any) -> list[ThreadRow]:
        return await self._retries.read(partial(self._list_once, count, start))

    async def _list_once(self, count: int, start: Any) -> list[ThreadRow]:
        rows: list[ThreadRow] = []
        now = self._now()
        items = self._table.query(
            IndexName=INDEX,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": self._keys.threads},
            ScanIndexForward=False,
            Limit=count,
            **({} if start is None else {"ExclusiveStartKey": start}),
        )
        async for item in items:
            thread = Thread.of(item)
            if thread.lives(now):
                rows.append(ThreadRow(thread.updated, item["sk"]["S"], thread.created))
            if len(rows) == count:
                break
        return rows

    def _read_position(self, *position: Any) -> Any:
        # The whole key of the index, because DynamoDB continues after a key; its item need not exist any more.
        updated, thread_id = position
        return {**self._keys.thread(STRING.validate(thread_id, "after")), "updated": number(int(updated))}

    # --- deleting ---

    async def _delete(self, thread_id: str) -> bool:
        """Delete a thread: at once for readers, then item by item; if that fails, another call continues it."""
        deletion = Deletion(thread_id)
        await self._retries.write(partial(self._delete_once, deletion))
        return deletion.has_marked

    async def _delete_once(self, deletion: Deletion) -> None:
        thread = await self._mark(deletion)
        if thread is None:
            return
        # Remembered over attempts: if the reply to the last request is lost, the next one finds no thread.
        deletion.has_marked = deletion.has_marked or thread.deleted == deletion.token
        await self._states.purge(thread.states)
        # Last of all: without the thread, nothing would find its states.
        with suppress(ConditionNotMetError):  # it was created again
            await self._table.delete(self._keys.thread(deletion.thread_id), **unchanged(thread))

    async def _mark(self, deletion: Deletion) -> Thread | None:
        """Mark a thread as deleted; return it if there is anything left to remove."""
        now = self._now()
        while True:
            key = self._keys.thread(deletion.thread_id)
            with suppress(ConditionNotMetError):  # it does not exist, has expired, or is marked already
                await self._table.update(key, **deleted(deletion.token, now))
            thread = await self._thread(deletion.thread_id)
            if thread is None or not thread.lives(now):  # otherwise it was created again in between
                return thread
