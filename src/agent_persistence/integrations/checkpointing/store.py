"""What a checkpointer does, in plain values: over the repositories, one owner at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import orjson

from agent_persistence.cache.circuit_breaker import CacheUnavailableError
from agent_persistence.cache.named_values import NamedValues
from agent_persistence.errors import (
    IdempotencyConflictError,
    ThreadExistsError,
    ThreadNotFoundError,
)
from agent_persistence.frozen import frozen
from agent_persistence.integrations.checkpointing.drafts import NO_VERSION, Draft, Drafts
from agent_persistence.integrations.checkpointing.places import Place
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, MessageRecord, NewMessage, Page, ThreadRecord
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

T = TypeVar("T")
Work = Callable[[UnitOfWork[Any, Any]], Awaitable[T]]

_PAGE: Final = 1000


@frozen
class Version:
    """A state and its version; a draft has that which it goes on from, or ``None``."""

    version: int | None
    data: Any


class CheckpointStore:
    """States, messages, threads and values for a checkpointer.

    Args:
        values: where drafts and named values are kept.
        ttl_seconds: for how long, unless a call says otherwise.
    """

    def __init__(self, persistence: Persistence[Any, Any], values: NamedValues, *, ttl_seconds: int) -> None:
        self.persistence = persistence
        self._values = values
        self._drafts = Drafts(values, ttl_seconds)
        self._ttl_seconds = ttl_seconds

    # --- States ---

    async def put_state(
        self, place: Place, data: Any, messages: Sequence[NewMessage[Any]] = (), *, expected: int | None
    ) -> int:
        """Save a state and messages, both or none, and return the version.

        Raises:
            StateConflictError: the latest version is not the expected one.
            ThreadExistsError: the thread is somebody else's.
        """
        if not messages:
            with suppress(ThreadNotFoundError):  # it is made below
                state = await self.persistence.states.put(
                    place.thread_id, data, user_id=place.owner, expected_version=expected
                )
                return state.version

        async def save(uow: UnitOfWork[Any, Any]) -> int:
            saved = await uow.states.put(place.thread_id, data, expected_version=expected)
            await _upsert(uow, place.thread_id, messages)
            return saved.version

        return await self._in_thread(place, save)

    async def get_state(self, place: Place) -> Version | None:
        """Return the latest state that was saved."""
        state = await self.persistence.states.get(place.thread_id, user_id=place.owner)
        return None if state is None else Version(state.version, state.data)

    async def clear_state(self, place: Place) -> None:
        """Forget every state, and the draft."""
        with suppress(ThreadNotFoundError):
            await self.persistence.states.clear(place.thread_id, user_id=place.owner)
        await self._drafts.delete(place)

    async def put_draft(self, place: Place, data: Any, *, base: int | None) -> bool:
        """Keep what a run is at, between two checkpoints; say whether that could be done."""
        return await self._drafts.put(place, Draft(base or NO_VERSION, data))

    async def get_latest(self, place: Place) -> Version | None:
        """Return the draft of the latest state, or else that state."""
        saved, draft = await asyncio.gather(self.get_state(place), self._drafts.get(place))
        version = saved.version if saved else None
        if draft is not None and draft.base == (version or NO_VERSION):
            return Version(version, draft.data)
        return saved

    # --- Messages ---

    async def put_messages(self, place: Place, messages: Sequence[NewMessage[Any]]) -> None:
        """Add messages; one of an id that stands in the thread already takes the other's place.

        Raises:
            ThreadExistsError: the thread is somebody else's.
        """
        try:
            await self.persistence.messages.append_many(place.thread_id, messages, user_id=place.owner)
        except (ThreadNotFoundError, IdempotencyConflictError):
            await self._in_thread(place, lambda uow: _upsert(uow, place.thread_id, messages))

    async def get_message(self, place: Place, message_id: Any) -> MessageRecord[Any] | None:
        """Return a message, or ``None``."""
        return await self.persistence.messages.get(place.thread_id, message_id, user_id=place.owner)

    async def list_messages(
        self, place: Place, *, search: str | None, offset: int, limit: int | None
    ) -> list[MessageRecord[Any]]:
        """Return messages from the beginning of the thread on.

        Raises:
            CorruptRowError: one of them cannot be read back.
        """

        async def read(after: str | None, wanted: int) -> Page[MessageRecord[Any]]:
            return await self.persistence.messages.page(
                place.thread_id, user_id=place.owner, after=after or BEFORE_THE_FIRST, limit=wanted, search=search
            )

        return await _slice(read, offset, limit)

    async def delete_message(self, place: Place, message_id: Any) -> bool:
        """Delete a message; say whether there was one."""
        return await self.persistence.messages.delete(place.thread_id, message_id, user_id=place.owner)

    # --- Threads ---

    async def put_thread(self, place: Place, name: str | None, meta: Mapping[str, Any]) -> None:
        """Make a thread, or change it; a name of ``None`` leaves that which it has.

        Raises:
            ThreadExistsError: the thread is somebody else's.
        """
        named = {} if name is None else {"name": name}

        async def put(uow: UnitOfWork[Any, Any]) -> None:
            await uow.threads.update(place.thread_id, meta=meta, **named)

        await self._in_thread(place, put)

    async def get_thread(self, place: Place) -> ThreadRecord[Any, Any] | None:
        """Return a thread, or ``None``."""
        return await self.persistence.threads.get(place.thread_id, user_id=place.owner)

    async def list_threads(
        self,
        owner: Any,
        is_wanted: Callable[[ThreadRecord[Any, Any]], bool] | None,
        *,
        offset: int,
        limit: int | None,
    ) -> list[ThreadRecord[Any, Any]]:
        """Return threads, the most recently active first, of those that are wanted."""

        async def read(after: str | None, wanted: int) -> Page[ThreadRecord[Any, Any]]:
            return await self.persistence.threads.page(user_id=owner, after=after, limit=wanted)

        return await _slice(read, offset, limit, is_wanted)

    async def delete_thread(self, place: Place) -> bool:
        """Delete a thread with all that is in it; say whether there was one."""
        deleted = await self.persistence.threads.delete(place.thread_id, user_id=place.owner)
        await self._drafts.delete(place)
        return deleted

    async def owner_of(self, thread_id: Any) -> Any:
        """Return whose a thread is, or ``None`` where there is none."""
        thread = await self.persistence.threads.get(thread_id, user_id=ANY_USER)
        return None if thread is None else thread.user_id

    # --- Tool results ---

    async def get_tool_result(self, place: Place, tool_call_id: str) -> Any:
        """Return what a tool call returned, or ``None``."""
        return await self.persistence.tool_results.get(place.thread_id, tool_call_id, user_id=place.owner)

    async def put_tool_result(self, place: Place, tool_call_id: str, result: Any) -> None:
        """Record what a tool call returned, unless that is recorded already."""
        await self._in_thread(place, lambda uow: uow.tool_results.record(place.thread_id, tool_call_id, result))

    # --- Named values ---

    async def put_value(self, namespace: str, key: str, given: Any, ttl_seconds: int | None) -> bool:
        """Keep a JSON value for a while; say whether that could be done."""
        try:
            await self._values.put(
                _name(namespace, key), orjson.dumps(given), ttl_seconds=ttl_seconds or self._ttl_seconds
            )
        except CacheUnavailableError:
            return False
        return True

    async def get_value(self, namespace: str, key: str) -> Any:
        """Return a value, or ``None``."""
        try:
            found = await self._values.get(_name(namespace, key))
        except CacheUnavailableError:
            return None
        return None if found is None else orjson.loads(found)

    async def delete_value(self, namespace: str, key: str) -> bool:
        """Forget a value; say whether there was one."""
        try:
            return await self._values.delete(_name(namespace, key))
        except CacheUnavailableError:
            return False

    async def value_keys(self, namespace: str) -> list[str]:
        """Return the keys of a namespace, in no order."""
        try:
            return await self._values.names(_namespace(namespace))
        except CacheUnavailableError:
            return []

    async def _in_thread(self, place: Place, work: Work[T]) -> T:
        """Run work in a unit of work; where the thread is not there, make it first."""

        async def attempt(uow: UnitOfWork[Any, Any]) -> T:
            try:
                return await work(uow)
            except ThreadNotFoundError:
                await _create(uow, place)
                return await work(uow)

        return await self.persistence.run(attempt, user_id=place.owner)


async def _create(uow: UnitOfWork[Any, Any], place: Place) -> None:
    """Make the thread, unless the same owner is doing so at this moment."""
    owner = {"user_id": place.user_id} if place.owner is ANY_USER else {}
    try:
        await uow.threads.create(thread_id=place.thread_id, name=place.name, meta=place.meta, **owner)
    except ThreadExistsError:
        if await uow.threads.get(place.thread_id) is None:
            raise  # somebody else's


async def _upsert(uow: UnitOfWork[Any, Any], thread_id: Any, messages: Sequence[NewMessage[Any]]) -> None:
    try:
        await uow.messages.append_many(thread_id, messages)
    except IdempotencyConflictError:
        for message in messages:
            await _put_one(uow, thread_id, message)


async def _put_one(uow: UnitOfWork[Any, Any], thread_id: Any, message: NewMessage[Any]) -> None:
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
        )


async def _slice(
    read: Callable[[str | None, int], Awaitable[Page[T]]],
    offset: int,
    limit: int | None,
    is_wanted: Callable[[T], bool] | None = None,
) -> list[T]:
    """Read a list by pages, and give what is wanted of it, from ``offset`` on."""
    found: list[T] = []
    after: str | None = None
    end = None if limit is None else offset + limit
    while end is None or len(found) < end:
        size = _PAGE if end is None or is_wanted else min(_PAGE, end)  # few may be wanted
        page = await read(after, size)
        if page.corrupt:
            raise page.corrupt[0]
        found += [one for one in page.items if is_wanted is None or is_wanted(one)]
        after = page.after
        if len(page) < size or after is None:
            break
    return found[offset:end]


def _name(namespace: str, key: str) -> tuple[str, str]:
    return _namespace(namespace), key


def _namespace(namespace: str) -> str:
    return f"values:{namespace}"
