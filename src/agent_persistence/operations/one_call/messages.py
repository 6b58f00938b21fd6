"""``MessageRepository``, one call at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_persistence.ids import IdT, UserIdT
from agent_persistence.operations.observed import measures_itself
from agent_persistence.operations.one_call.base import OneCall
from agent_persistence.operations.unit_of_work import Repositories
from agent_persistence.records import UNSET, AnyUser, MessageRecord, NewMessage, Page, Unchanged
from agent_persistence.repositories import MessageRepository
from agent_persistence.repositories.messages.prepared import with_id


class OneCallMessages(OneCall[MessageRepository[IdT, UserIdT], IdT, UserIdT]):
    """``MessageRepository``, one call at a time.

    Each method takes ``user_id``: the owner of the thread, or ``ANY_USER`` for administration. Threads of other owners
    do not exist. Each may raise ``UnavailableError`` and ``StatementTimeoutError``; one that writes,
    ``CommitUnknownError``.
    """

    @measures_itself
    async def append(
        self,
        thread_id: IdT,
        message: Mapping[str, Any] | NewMessage[IdT],
        *,
        user_id: UserIdT | AnyUser,
        message_id: IdT | None = None,
    ) -> MessageRecord[IdT]:
        """Add a message at the end of a thread.

        Args:
            thread_id: the thread.
            message: a mapping in the chat-completions shape, or a ``NewMessage``.
            user_id: the owner, or ``ANY_USER``.
            message_id: makes the call safe to repeat: a second call with the same id and message changes nothing.

        Returns:
            The message as it was stored.

        Raises:
            InvalidInputError: a part of the message cannot be stored; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: the thread has a message with this id and different content.
        """
        messages = [with_id(message, message_id)]
        [made] = await self._batched.append(
            thread_id, messages, user_id=user_id, field="message", name="messages.append"
        )
        return made

    @measures_itself
    async def append_many(
        self,
        thread_id: IdT,
        messages: Sequence[Mapping[str, Any] | NewMessage[IdT]],
        *,
        user_id: UserIdT | AnyUser,
    ) -> tuple[MessageRecord[IdT], ...]:
        """Add messages at the end of a thread, in this order; all of them or none.

        Args:
            thread_id: the thread.
            messages: mappings in the chat-completions shape, or ``NewMessage`` objects.
            user_id: the owner, or ``ANY_USER``.

        Returns:
            The messages as they were stored, in the same order.

        Raises:
            InvalidInputError: a part of one cannot be stored, or two have the same id; ``field`` names it.
            ThreadNotFoundError: the thread does not exist.
            IdempotencyConflictError: one has the id of a message in the thread with different content.
        """
        return await self._batched.append(
            thread_id, messages, user_id=user_id, field="messages", name="messages.append_many"
        )

    async def get(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> MessageRecord[IdT] | None:
        """Return a message, or ``None`` if it does not exist.

        Raises:
            InvalidInputError: an id is not of the configured type.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._look_up(MessageRepository[IdT, UserIdT].get, user_id, thread_id, message_id)

    async def require(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> MessageRecord[IdT]:
        """Return a message.

        Raises:
            InvalidInputError: an id is not of the configured type.
            MessageNotFoundError: it does not exist.
            CorruptRowError: the stored row cannot be read.
        """
        return await self._look_up(MessageRepository[IdT, UserIdT].require, user_id, thread_id, message_id)

    async def page(
        self,
        thread_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        limit: int = 50,
        before: str | None = None,
        after: str | None = None,
        search: str | None = None,
        asides: bool | str = False,
    ) -> Page[MessageRecord[IdT]]:
        """Read messages in the order of the thread: the newest, or those before or after a cursor.

        No message is skipped or repeated while others write: the order is that of commits.

        Args:
            thread_id: the thread; an empty page if it does not exist.
            user_id: the owner, or ``ANY_USER``.
            limit: how many at most, 1 to 1,000.
            before: ``before`` of another page: read the messages before that page.
            after: ``after`` of another page: read the messages that follow it. Keep it to poll for new ones.
            search: text that the message must contain, in any case, at most 255 characters; ``%`` and ``_`` mean
                themselves. Normalise it like the stored text: NFD does not match NFC.
            asides: whether to show rows that frameworks keep between the messages, too: all, or those of a name. See
                ``MessageRecord.aside``.

        Returns:
            A page; rows that cannot be read are in its ``corrupt``.

        Raises:
            InvalidInputError: an argument cannot be valid.
        """
        # One that filters may take long, and others would wait for it.
        read = self._look_up if search is None else self._read
        return await read(
            MessageRepository[IdT, UserIdT].page,
            user_id,
            thread_id,
            limit=limit,
            before=before,
            after=after,
            search=search,
            asides=asides,
        )

    async def update(
        self,
        thread_id: IdT,
        message_id: IdT,
        *,
        user_id: UserIdT | AnyUser,
        message: Mapping[str, Any] | Unchanged = UNSET,
        total_tokens: int | Unchanged = UNSET,
        usages: Mapping[str, Any] | Unchanged = UNSET,
        meta: Mapping[str, Any] | Unchanged = UNSET,
        aside: str | Unchanged | None = UNSET,
    ) -> MessageRecord[IdT]:
        """Replace parts of a message; omitted parts and its position stay.

        Args:
            thread_id: the thread.
            message_id: the message.
            user_id: the owner, or ``ANY_USER``.
            message: a mapping in the chat-completions shape.
            total_tokens: 0 to 2,147,483,647.
            usages: a JSON object.
            meta: a JSON object.
            aside: ``None`` makes the row a message of the conversation; a name takes it out. See ``NewMessage``.

        Returns:
            The message as it is stored now.

        Raises:
            InvalidInputError: nothing to change was given, or it cannot be stored.
            MessageNotFoundError: the message does not exist.
        """
        return await self._write(
            MessageRepository[IdT, UserIdT].update,
            user_id,
            thread_id,
            message_id,
            message=message,
            total_tokens=total_tokens,
            usages=usages,
            meta=meta,
            aside=aside,
        )

    async def delete(self, thread_id: IdT, message_id: IdT, *, user_id: UserIdT | AnyUser) -> bool:
        """Delete a message; return whether it existed.

        Raises:
            InvalidInputError: an id is not of the configured type.
        """
        return await self._batched.rows.delete_message(
            thread_id,
            message_id,
            user_id=user_id,
            alone=lambda: self._write(MessageRepository[IdT, UserIdT].delete, user_id, thread_id, message_id),
        )

    async def pop(
        self, thread_id: IdT, *, user_id: UserIdT | AnyUser, asides: bool | str = False
    ) -> MessageRecord[IdT] | None:
        """Remove the last message of a thread and return it; ``None`` if there is none.

        Concurrent calls remove different messages. A message that cannot be read is not removed.

        Args:
            thread_id: the thread.
            user_id: the owner, or ``ANY_USER``.
            asides: whether the last row may be an aside: any, or one of this name. Others are passed by, and stay.

        Raises:
            InvalidInputError: the id is not of the configured type.
            CorruptRowError: the last message cannot be read.
        """
        return await self._write(MessageRepository[IdT, UserIdT].pop, user_id, thread_id, asides=asides)

    async def clear(self, thread_id: IdT, *, user_id: UserIdT | AnyUser) -> int:
        """Delete all messages of a thread, asides included; return how many there were. The thread and its states stay.

        Raises:
            InvalidInputError: the id is not of the configured type.
        """
        return await self._write(MessageRepository[IdT, UserIdT].clear, user_id, thread_id)

    def _repository(self, repositories: Repositories[IdT, UserIdT]) -> MessageRepository[IdT, UserIdT]:
        return repositories.messages
