"""The operations of a checkpointer on plain values."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

import orjson

from agent_persistence.cache.circuit_breaker import CacheUnavailableError
from agent_persistence.cache.keys import draft_name
from agent_persistence.cache.named_values import Name, NamedValues, RedisValues
from agent_persistence.cache.state_cache import Miss
from agent_persistence.concurrency.time_limit import one_call
from agent_persistence.errors import IdempotencyConflictError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.frozen import frozen
from agent_persistence.integrations.checkpointing.conversion import META_KEY
from agent_persistence.integrations.checkpointing.run_config import ThreadRef
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import (
    ANY_USER,
    UNSET,
    MessageRecord,
    NewMessage,
    NewThread,
    Page,
    StateRecord,
    ThreadRecord,
)
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

T = TypeVar("T")
Work = Callable[[UnitOfWork[Any, Any], Any], Awaitable[T]]
"""Is called with a unit of work and the id of a thread."""

_PAGE_SIZE: Final = 1000
_NO_VERSION: Final = 0


@frozen
class VersionedState:
    """A state and its version; a draft has the version that it continues from, ``None`` if nothing was saved."""

    version: int | None
    data: Any


class CheckpointStore:
    """States, drafts, messages, threads, tool results and cache values, over a ``Persistence``.

    A draft is the state of a run between two checkpoints. It may be lost, and never hides a newer state: it names the
    version that it continues from, and counts only while that is the latest one. So a draft is ignored if its run was
    overtaken, or its thread was cleared or deleted since.

    Args:
        persistence: an open store.
        values: keeps drafts and cache values.
        ttl_seconds: the lifetime of drafts, and of cache values unless a call names another.
    """

    def __init__(self, persistence: Persistence[Any, Any], values: NamedValues, *, ttl_seconds: float) -> None:
        self._persistence = persistence
        self._values = values
        self._ttl_seconds = ttl_seconds

    async def check(self) -> None:
        """Check that the database can be reached and has the schema of this version; see ``Persistence.check``."""
        await self._persistence.check()

    # --- States ---

    async def put_state(
        self, thread: ThreadRef, data: Any, messages: Sequence[NewMessage[Any]] = (), *, expected: int | None
    ) -> int:
        """Save a state and messages in one transaction, creating the thread if needed; return the state's version.

        Args:
            expected: the latest version that the state may be saved over; ``None`` for any.

        Raises:
            StateConflictError: the latest version is not the expected one.
            ThreadExistsError: the thread belongs to another user.
        """
        if not messages and expected is None:
            # Without a cache, a state alone takes one round trip.
            with suppress(ThreadNotFoundError):
                return (await self._persistence.states.put(thread.thread_id, data, user_id=thread.owner)).version
        new: NewThread[Any] = NewThread(thread_id=thread.thread_id, name=thread.name, meta=thread.meta)
        work = partial(_save, data=data, messages=messages, expected=expected)
        state = await self._persistence.checkpoints.put_turn(
            new,
            data,
            messages,
            user_id=thread.owner,
            expected_version=expected,
            alone=partial(self._in_thread, thread, work),
        )
        return state.version

    async def get_state(self, thread: ThreadRef) -> VersionedState | None:
        """Return the latest saved state."""
        return _versioned(await self._persistence.states.get(thread.thread_id, user_id=thread.owner))

    async def clear_state(self, thread: ThreadRef) -> None:
        """Delete all states of the thread, and its draft."""
        deleted = 0
        with suppress(ThreadNotFoundError):
            deleted = await self._persistence.states.clear(thread.thread_id, user_id=thread.owner)
        await self._delete_draft(thread, is_gone=deleted > 0)

    async def put_draft(self, thread: ThreadRef, data: Any, *, base: int | None) -> bool:
        """Keep a draft that continues from version ``base``; return whether the cache took it."""
        return await self.put_value(_draft_name(thread), [base or _NO_VERSION, data])

    async def get_latest(self, thread: ThreadRef) -> tuple[VersionedState | None, VersionedState | None]:
        """Return the latest saved state, and the draft if it continues from that state."""
        saved, draft = await self._state_and_draft(thread)
        version = saved.version if saved else None
        match draft:
            case [int(base), dict(data)] if base == (version or _NO_VERSION):
                return saved, VersionedState(version, data)
        return saved, None

    async def _state_and_draft(self, thread: ThreadRef) -> tuple[VersionedState | None, Any]:
        name, values = _draft_name(thread), self._values
        # A closed store, or one of another event loop, refuses the read of the state.
        is_usable = not self._persistence.closed and self._persistence.loop is asyncio.get_running_loop()
        if isinstance(values, RedisValues) and thread.owner is not ANY_USER and is_usable:
            found, value = await values.get_beside_state(name, thread.thread_id, thread.owner)
            state = await self.get_state(thread) if isinstance(found, Miss) else _versioned(found.state)
            return state, _decoded(value)
        # At once: the draft is in Redis, and the state may have to be read from PostgreSQL.
        return await asyncio.gather(self.get_state(thread), self.get_value(name))

    # --- Messages ---

    async def put_messages(self, thread: ThreadRef, messages: Sequence[NewMessage[Any]]) -> None:
        """Append messages, creating the thread if needed; a message whose id exists in the thread is replaced there.

        Raises:
            ThreadExistsError: the thread belongs to another user.
        """
        try:
            # The usual case, new messages in a known thread, may share a transaction with other callers (ADR 10).
            await self._persistence.messages.append_many(thread.thread_id, messages, user_id=thread.owner)
        except (ThreadNotFoundError, IdempotencyConflictError):
            await self._in_thread(thread, partial(_upsert, messages=messages))

    async def get_message(self, thread: ThreadRef, message_id: Any) -> MessageRecord[Any] | None:
        """Return a message, or ``None``."""
        return await self._persistence.messages.get(thread.thread_id, message_id, user_id=thread.owner)

    async def list_messages(
        self, thread: ThreadRef, *, search: str | None, offset: int, limit: int | None
    ) -> list[MessageRecord[Any]]:
        """Return messages in the order of the thread, from its beginning.

        Raises:
            CorruptRowError: one of them cannot be read.
        """
        read_page = partial(
            self._persistence.messages.page, thread.thread_id, user_id=thread.owner, search=search, asides=META_KEY
        )
        return await _slice(read_page, offset, limit, after=BEFORE_THE_FIRST)

    async def delete_message(self, thread: ThreadRef, message_id: Any) -> bool:
        """Delete a message; return whether it existed."""
        return await self._persistence.messages.delete(thread.thread_id, message_id, user_id=thread.owner)

    # --- Threads ---

    async def put_thread(self, thread: ThreadRef, name: str | None, meta: Mapping[str, Any]) -> None:
        """Create a thread or update its name and ``meta``; a name of ``None`` keeps the present one.

        Raises:
            ThreadExistsError: the thread belongs to another user.
        """
        new_name = UNSET if name is None else name
        try:
            await self._persistence.threads.update(thread.thread_id, user_id=thread.owner, name=new_name, meta=meta)
        except ThreadNotFoundError:
            await self._in_thread(thread, partial(_update_thread, name=name, meta=meta))

    async def get_thread(self, thread: ThreadRef) -> ThreadRecord[Any, Any] | None:
        """Return a thread, or ``None``."""
        return await self._persistence.threads.get(thread.thread_id, user_id=thread.owner)

    async def list_threads(
        self,
        owner: Any,
        matches: Callable[[ThreadRecord[Any, Any]], bool] | None,
        *,
        offset: int,
        limit: int | None,
    ) -> list[ThreadRecord[Any, Any]]:
        """Return the threads that match, the most recently active first.

        Args:
            owner: the user, or ``ANY_USER``.
            matches: the filter; ``None`` for all threads. It needs every thread of the owner read.
        """
        read_page = partial(self._persistence.threads.page, user_id=owner)
        return await _slice(read_page, offset, limit, matches=matches)

    async def delete_thread(self, thread: ThreadRef) -> bool:
        """Delete a thread with its contents and its draft; return whether it existed."""
        deleted = await self._persistence.threads.delete(thread.thread_id, user_id=thread.owner)
        await self._delete_draft(thread, is_gone=deleted)
        return deleted

    async def owner_of(self, thread_id: Any) -> Any:
        """Return the owner of a thread, or ``None`` if there is no such thread."""
        thread = await self._persistence.threads.get(thread_id, user_id=ANY_USER)
        return None if thread is None else thread.user_id

    # --- Tool results ---

    async def get_tool_result(self, thread: ThreadRef, tool_call_id: str) -> Any:
        """Return the recorded result of a tool call, or ``None``."""
        return await self._persistence.tool_results.get(thread.thread_id, tool_call_id, user_id=thread.owner)

    async def put_tool_result(self, thread: ThreadRef, tool_call_id: str, result: Any) -> None:
        """Record the result of a tool call; the first recorded result stays."""
        try:
            await self._persistence.tool_results.record(thread.thread_id, tool_call_id, result, user_id=thread.owner)
        except ThreadNotFoundError:
            await self._in_thread(thread, partial(_record_tool_result, tool_call_id=tool_call_id, result=result))

    # --- Cache values ---

    async def put_value(self, name: Name, value: Any, ttl_seconds: float | None = None) -> bool:
        """Keep a JSON value for a while; return whether the cache took it."""
        ttl = self._ttl_seconds if ttl_seconds is None else ttl_seconds
        try:
            await self._values.put(name, orjson.dumps(value), ttl_seconds=ttl)
        except CacheUnavailableError:
            return False
        return True

    async def get_value(self, name: Name) -> Any:
        """Return a value, or ``None`` if it is absent or the cache does not answer."""
        try:
            return _decoded(await self._values.get(name))
        except CacheUnavailableError:
            return None

    async def delete_value(self, name: Name) -> bool:
        """Delete a value; return whether it existed."""
        try:
            return await self._values.delete(name)
        except CacheUnavailableError:
            return False

    async def value_keys(self, namespace: str) -> list[str]:
        """Return the keys of a namespace, in no order."""
        try:
            return await self._values.names(namespace)
        except CacheUnavailableError:
            return []

    async def _delete_draft(self, thread: ThreadRef, *, is_gone: bool) -> None:
        # Where states are gone, the cache has deleted the draft with the cached state. If it does not answer, the draft
        # stays. Only one that was based on no version would count then.
        if not (is_gone and isinstance(self._values, RedisValues)):
            await self.delete_value(_draft_name(thread))

    async def _in_thread(self, thread: ThreadRef, work: Work[T]) -> T:
        """Run ``work`` in one transaction; if the thread does not exist, create it in the same transaction."""
        creating = partial(_creating, thread=thread, work=work)
        with one_call():
            return await self._persistence.run(creating, user_id=thread.owner)


def _versioned(state: StateRecord[Any] | None) -> VersionedState | None:
    return None if state is None else VersionedState(state.version, state.data)


def _decoded(value: bytes | None) -> Any:
    try:
        return None if value is None else orjson.loads(value)
    except ValueError:  # written by another version, or by hand
        return None


def _draft_name(thread: ThreadRef) -> Name:
    return draft_name(thread.thread_id, None if thread.owner is ANY_USER else thread.owner)


async def _creating(uow: UnitOfWork[Any, Any], *, thread: ThreadRef, work: Work[T]) -> T:
    try:
        return await work(uow, thread.thread_id)
    except ThreadNotFoundError:
        await _create(uow, thread)
        return await work(uow, thread.thread_id)


async def _create(uow: UnitOfWork[Any, Any], thread: ThreadRef) -> None:
    owner = {"user_id": thread.user_id} if thread.owner is ANY_USER else {}
    try:
        await uow.threads.create(thread_id=thread.thread_id, name=thread.name, meta=thread.meta, **owner)
    except ThreadExistsError:
        # Another call of the same owner has just created it, or it belongs to another user and is not visible.
        if await uow.threads.get(thread.thread_id) is None:
            raise


async def _save(
    uow: UnitOfWork[Any, Any],
    thread_id: Any,
    *,
    data: Any,
    messages: Sequence[NewMessage[Any]],
    expected: int | None,
) -> StateRecord[Any]:
    saved = await uow.states.put(thread_id, data, expected_version=expected)
    await _upsert(uow, thread_id, messages)
    return saved


async def _upsert(uow: UnitOfWork[Any, Any], thread_id: Any, messages: Sequence[NewMessage[Any]]) -> None:
    try:
        await uow.messages.append_many(thread_id, messages)
    except IdempotencyConflictError:
        # One statement for all failed. One by one is slower, but only messages that are put again come here.
        for message in messages:
            await _upsert_one(uow, thread_id, message)


async def _upsert_one(uow: UnitOfWork[Any, Any], thread_id: Any, message: NewMessage[Any]) -> None:
    try:
        await uow.messages.append(thread_id, message)
    except IdempotencyConflictError:
        await uow.messages.update(
            thread_id,
            message.message_id,
            message=message.message,
            total_tokens=message.total_tokens,
            usages=message.usages,
            meta=message.meta,
            aside=message.aside,
        )


async def _update_thread(
    uow: UnitOfWork[Any, Any], thread_id: Any, *, name: str | None, meta: Mapping[str, Any]
) -> None:
    await uow.threads.update(thread_id, name=UNSET if name is None else name, meta=meta)


async def _record_tool_result(uow: UnitOfWork[Any, Any], thread_id: Any, *, tool_call_id: str, result: Any) -> None:
    await uow.tool_results.record(thread_id, tool_call_id, result)


async def _slice(
    read_page: Callable[..., Awaitable[Page[T]]],
    offset: int,
    limit: int | None,
    *,
    after: str | None = None,
    matches: Callable[[T], bool] | None = None,
) -> list[T]:
    """Return the items ``[offset:offset + limit]`` of a list that is read by pages, counting those that match."""
    found: list[T] = []
    end = None if limit is None else offset + limit
    while end is None or len(found) < end:
        # A small page only if each of its items counts: a filter may reject nearly all of them.
        size = _PAGE_SIZE if end is None or matches else min(_PAGE_SIZE, end)
        page = await read_page(after=after, limit=size)
        if page.corrupt:
            raise page.corrupt[0]
        found += [item for item in page.items if matches is None or matches(item)]
        after = page.after
        if len(page) < size or after is None:
            break
    return found[offset:end]
