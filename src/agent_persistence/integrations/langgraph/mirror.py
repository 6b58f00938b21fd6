"""The messages of a graph as rows of ``messages``, for history, search and export."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from langchain_core.messages import RemoveMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agent_persistence.errors import CorruptRowError, IdempotencyConflictError, InvalidInputError
from agent_persistence.ids import IdType
from agent_persistence.integrations.langgraph.chat_shape import chat_messages_of, message_of, text_only, usage_of
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import NewMessage

logger: Final = logging.getLogger("agent_persistence")

FOLLOWS: Final = "follows"
"""The key of a mirrored message's ``meta``: the id of the message before it in the graph, so that branches show.

``None`` for the first message."""
CHECKPOINT: Final = "checkpoint_id"
"""The key of a mirrored message's ``meta``: the first checkpoint that has the message, to run the graph from there."""
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://langchain-ai.github.io/langgraph#messages")


class Mirror:
    """Writes the new and changed messages of a channel to ``messages``.

    Args:
        channel: the channel's name.
        id_type: the id type of ``messages``.

    Raises:
        InvalidInputError: ids are numbers, so a message cannot keep the id that the graph gave it.
    """

    def __init__(self, channel: str, id_type: IdType[Any]) -> None:
        if id_type.python_type is int:
            raise InvalidInputError("mirror", "needs PERSISTENCE_ID_TYPE=string or uuid: a message keeps its own id")
        self.channel = channel
        self._id_type = id_type

    def messages(
        self, checkpoint_id: str, messages: Any, new_indexes: Sequence[int] | None, *, is_whole: bool = True
    ) -> list[NewMessage[Any]]:
        """Return a checkpoint's new and changed messages.

        Args:
            messages: the value of the channel, or only its new messages.
            new_indexes: the indexes of new and changed messages; ``None`` if all of them may be.
            is_whole: whether ``messages`` begins with the conversation's first message.
        """
        if isinstance(messages, _DeltaSnapshot):
            messages, new_indexes = messages.value, None
        if not isinstance(messages, list):
            return []
        indexes = range(len(messages)) if new_indexes is None else new_indexes
        meta = {CHECKPOINT: checkpoint_id}
        # Of two with the same id, which a reducer other than add_messages may keep, the last one counts.
        new = {row.message_id: row for index in indexes for row in self._rows(messages, index, meta, starts=is_whole)}
        return list(new.values())

    @staticmethod
    async def write(uow: UnitOfWork[Any, Any], thread_id: Any, new: Sequence[NewMessage[Any]]) -> None:
        """Add new messages and update those that changed; messages are never deleted."""
        try:
            # One statement in the usual case; only a message that exists with other contents costs one for each.
            await uow.messages.append_many(thread_id, new)
        except (IdempotencyConflictError, InvalidInputError, CorruptRowError):
            for row in new:
                await _put(uow, thread_id, row)

    def _rows(
        self, messages: list[Any], index: int, meta: Mapping[str, str], *, starts: bool
    ) -> Iterator[NewMessage[Any]]:
        default_id = f"{meta[CHECKPOINT]}/{index}"
        message = message_of(messages[index])
        if message is None:
            _warn(default_id, "it is no message")
        if message is None or isinstance(message, RemoveMessage):
            return
        own_id = message.id or default_id
        before = _id_of(messages[index - 1]) if index else None
        # One message of LangChain can be several of the chat-completions shape: they get numbered ids.
        for number, chat in enumerate(chat_messages_of(message)):
            # Without an own id even the first is numbered, as it always was: stored ids depend on it.
            row_id = own_id if message.id and not number else f"{own_id}/{number}"
            place: dict[str, Any] = {}
            if before is not None:
                place = {FOLLOWS: str(self._message_id(before))}
            elif starts and not index:
                place = {FOLLOWS: None}  # said, so that a first message that was edited is a branch too
            usage = {} if number else usage_of(message)
            yield NewMessage(message=chat, message_id=self._message_id(row_id), meta={**meta, **place}, **usage)
            before = row_id

    def _message_id(self, own_id: str) -> Any:
        """Return the message's own id, or a UUID derived from it if it does not fit the id type."""
        try:
            return self._id_type.parse(own_id, "message_id")
        except InvalidInputError:
            derived = uuid.uuid5(_NAMESPACE, own_id.encode(errors="backslashreplace").decode())
            return derived if self._id_type.python_type is uuid.UUID else str(derived)


async def _put(uow: UnitOfWork[Any, Any], thread_id: Any, new: NewMessage[Any]) -> None:
    """Add or update one message. A refusal is not raised, but logged: the checkpoint matters more."""
    try:
        await _add_or_update(uow, thread_id, new)
    except CorruptRowError:
        _warn(new.message_id, "its row cannot be read")
    except InvalidInputError as refusal:
        _warn(new.message_id, f"{refusal.reason}; its text alone is tried")
        try:
            await _add_or_update(uow, thread_id, replace(new, message=text_only(new.message), usages={}))
        except InvalidInputError as second:
            _warn(new.message_id, second.reason)


async def _add_or_update(uow: UnitOfWork[Any, Any], thread_id: Any, new: NewMessage[Any]) -> None:
    found = await uow.messages.get(thread_id, new.message_id)
    if found is None:
        await uow.messages.append(thread_id, new)
    elif found.message != new.message:
        await uow.messages.update(
            thread_id, new.message_id, message=new.message, total_tokens=new.total_tokens, usages=new.usages
        )


def _id_of(message: Any) -> str | None:
    own_id = message.get("id") if isinstance(message, Mapping) else getattr(message, "id", None)
    return own_id if own_id and isinstance(own_id, str) else None


def _warn(message_id: Any, reason: str) -> None:
    # No contents: only the id and the reason.
    fields = {"event_name": "graph.not_mirrored", "message_id": message_id}
    logger.warning("message %r of a graph is not mirrored whole: %s", message_id, reason, extra=fields)
