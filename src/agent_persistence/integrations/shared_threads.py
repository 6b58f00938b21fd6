"""Threads that begin with their first message, under ids that a framework chose."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from agent_persistence.errors import InvalidInputError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.ids import IdType
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence
from agent_persistence.records import NewMessage

_NAMESPACE: Final = uuid.UUID("5f0b1e0c-8f6d-5c9a-9d5e-6f1f0c0e7a11")


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
        return uuid.uuid5(_NAMESPACE, key.encode(errors="backslashreplace").decode())


class SharedThread:
    """A thread that begins with its first message.

    A thread that existed and was deleted meanwhile is not begun again: a late writer would bring it back.
    """

    def __init__(self) -> None:
        self._existed = False

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
            ThreadNotFoundError: the thread was deleted since this object found it.
            ThreadExistsError: the thread belongs to another owner.
        """
        append = partial(persistence.messages.append_many, thread_id, messages, user_id=user_id)
        try:
            await append()
        except ThreadNotFoundError:
            if self._existed:
                raise
            try:
                await persistence.run(partial(_begin, thread_id=thread_id, messages=messages), user_id=user_id)
            except ThreadExistsError as taken:
                try:  # by another call of the same owner, a moment ago
                    await append()
                except ThreadNotFoundError:
                    raise taken from None
        self._existed = True


async def _begin(uow: UnitOfWork[Any, Any], *, thread_id: Any, messages: Sequence[NewMessage[Any]]) -> None:
    await uow.threads.create(thread_id=thread_id)
    await uow.messages.append_many(thread_id, messages)
