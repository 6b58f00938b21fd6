"""Threads of frameworks: under ids that those chose, begun by their first message, and found by their ``meta``."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from agent_persistence.errors import InvalidInputError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.ids import IdType
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage, Page, ThreadRecord

_PAGE: Final = 1000
_NAMESPACE: Final = uuid.UUID("5f0b1e0c-8f6d-5c9a-9d5e-6f1f0c0e7a11")

ListPage = Callable[..., Awaitable[Page[ThreadRecord[Any, Any]]]]


def thread_id_of(key: str, id_type: IdType[Any], field: str) -> Any:
    """Return the id of the thread for a framework's key: the key itself, or a UUID made of it where ids are UUIDs.

    Args:
        key: what the framework calls the conversation by, unique among all owners.
        id_type: the type of thread ids in this database.
        field: names the key in errors.

    Raises:
        InvalidInputError: ids are numbers, which no key fits; or the key cannot be an id.
    """
    if id_type.python_type is int:
        raise InvalidInputError(field, "needs PERSISTENCE_ID_TYPE=string or uuid: a thread keeps the framework's id")
    if id_type.python_type is not uuid.UUID:
        return id_type.parse(key, field)
    try:
        return id_type.parse(key, field)
    except InvalidInputError:
        return uuid_of(key)


def scoped_thread_id(parts: Sequence[Any], id_type: IdType[Any], field: str) -> Any:
    """Return the id of the thread for a key of several parts, of which none is unique alone.

    Args:
        parts: texts, numbers and ``None``.
        id_type: the type of thread ids in this database.
        field: names the key in errors.

    Raises:
        InvalidInputError: ids are numbers, which no key fits.
    """
    return thread_id_of(str(uuid_of(json.dumps(parts))), id_type, field)


def uuid_of(key: str) -> uuid.UUID:
    """Return the UUID for a key: always the same one for the same text."""
    # What uuid5 does, which refuses lone surrogates.
    digest = hashlib.sha1(_NAMESPACE.bytes + key.encode(errors="surrogatepass"), usedforsecurity=False).digest()
    return uuid.UUID(bytes=digest[:16], version=5)


async def threads_with(
    list_page: ListPage, meta: Mapping[str, Any] | None, *, most: int | None = None
) -> list[ThreadRecord[Any, Any]]:
    """Return all threads whose ``meta`` contains a value; those that become active meanwhile among them.

    Args:
        list_page: reads a page of the threads of an owner.
        meta: what they contain (PostgreSQL's ``@>``); ``None`` for all threads.
        most: how many there may be.

    Raises:
        InvalidInputError: there are more.
    """
    found: dict[Any, ThreadRecord[Any, Any]] = {}
    after, is_first_pass = None, True
    while True:
        page = await list_page(limit=_PAGE, after=after, meta=meta)
        is_known = all(thread.thread_id in found for thread in page)
        found |= {thread.thread_id: thread for thread in page}
        if most is not None and len(found) > most:
            raise InvalidInputError("limit", f"there are more than {most} threads; use persistence.threads.page")
        after = page.after
        if after is None and is_first_pass and len(found) > len(page):
            # A thread that became active has moved to the top meanwhile, past the pages that were read.
            is_first_pass = False
        elif after is None or (is_known and not is_first_pass):
            return list(found.values())


class SharedThread:
    """A thread that begins with its first message.

    A thread that existed and was deleted meanwhile is not begun again: a late writer would bring it back.

    Attributes:
        existed: whether this object has read something of it, or written to it.
    """

    def __init__(self) -> None:
        self.existed = False

    def note_read(self, found: object) -> None:
        """Note that the thread exists if something was found in it."""
        self.existed = self.existed or bool(found)

    async def append(
        self, persistence: Persistence[Any, Any], thread_id: Any, messages: Sequence[NewMessage[Any]], *, user_id: Any
    ) -> None:
        """Append messages; begin the thread if it is new.

        Args:
            persistence: the store.
            thread_id: the thread.
            messages: in their order; all or none are appended.
            user_id: the owner.

        Raises:
            ThreadNotFoundError: the thread was deleted since this object has read it or written to it.
            ThreadExistsError: the thread belongs to another owner.
        """
        await self.write(
            partial(persistence.messages.append_many, thread_id, messages, user_id=user_id),
            partial(persistence.run, partial(_begin, thread_id=thread_id, messages=messages), user_id=user_id),
        )

    async def write(self, write: Callable[[], Awaitable[object]], begin: Callable[[], Awaitable[object]]) -> None:
        """Write to the thread; begin it if it is new.

        Args:
            write: writes to a thread that exists.
            begin: creates the thread and writes to it, in one transaction.

        Raises:
            ThreadNotFoundError: the thread was deleted since this object has read it or written to it.
            ThreadExistsError: the thread belongs to another owner.
        """
        existed = self.existed  # now: another call may begin the thread while this one finds none
        try:
            await write()
        except ThreadNotFoundError:
            if existed:
                raise
            try:
                await begin()
            except ThreadExistsError as taken:
                try:  # by another call of the same owner, a moment ago
                    await write()
                except ThreadNotFoundError:
                    raise taken from None
        self.existed = True


async def _begin(uow: UnitOfWork[Any, Any], *, thread_id: Any, messages: Sequence[NewMessage[Any]]) -> None:
    await uow.threads.create(thread_id=thread_id)
    await uow.messages.append_many(thread_id, messages)
