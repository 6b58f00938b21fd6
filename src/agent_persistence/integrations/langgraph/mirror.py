"""The messages of a graph as rows of ``messages``, for history, search and export."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    RemoveMessage,
    convert_to_messages,
    convert_to_openai_messages,
)
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agent_persistence.encoding.exact_json import encode_json, sanitize
from agent_persistence.errors import IdempotencyConflictError, InvalidInputError
from agent_persistence.ids import IdType
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import NewMessage

logger: Final = logging.getLogger("agent_persistence")

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

    async def write(
        self,
        uow: UnitOfWork[Any, Any],
        thread_id: Any,
        checkpoint_id: str,
        messages: Any,
        new_indexes: Sequence[int] | None,
    ) -> None:
        """Add a checkpoint's new messages and update those that changed; messages are never deleted.

        Args:
            messages: the value of the channel, or only its new messages.
            new_indexes: the indexes of new and changed messages; ``None`` if all of them may be.
        """
        if isinstance(messages, _DeltaSnapshot):
            messages, new_indexes = messages.value, None
        if not isinstance(messages, list):
            return
        indexes = range(len(messages)) if new_indexes is None else new_indexes
        new = [one for index in indexes for one in self._rows(messages[index], f"{checkpoint_id}/{index}")]
        try:
            # One statement in the usual case; only a message that exists with other contents costs one for each.
            await uow.messages.append_many(thread_id, new)
        except IdempotencyConflictError:
            for one in new:
                await _put(uow, thread_id, one)

    def _rows(self, message: Any, default_id: str) -> Iterator[NewMessage[Any]]:
        try:
            [known] = convert_to_messages([message])
            if isinstance(known, RemoveMessage):
                return
            # One message of LangChain can be several of the chat-completions shape: they get numbered ids.
            for number, chat in enumerate(convert_to_openai_messages([known])):
                clean = sanitize(chat, "message")
                encode_json(clean, "message")
                own_id = known.id if known.id and not number else f"{known.id or default_id}/{number}"
                yield NewMessage(message=clean, message_id=self._message_id(own_id), **_usage(known))
        except (InvalidInputError, NotImplementedError, TypeError, ValueError) as refusal:
            # Not raised: the checkpoint matters more. Only the class is logged, for the error may quote the message.
            logger.warning("a message of a graph is not mirrored: %s", type(refusal).__name__)

    def _message_id(self, own_id: str) -> Any:
        """Return the message's own id, or a UUID derived from it if it does not fit the id type."""
        try:
            return self._id_type.parse(own_id, "message_id")
        except InvalidInputError:
            derived = uuid.uuid5(_NAMESPACE, own_id.encode(errors="backslashreplace").decode())
            return derived if self._id_type.python_type is uuid.UUID else str(derived)


async def _put(uow: UnitOfWork[Any, Any], thread_id: Any, new: NewMessage[Any]) -> None:
    found = await uow.messages.get(thread_id, new.message_id)
    if found is None:
        await uow.messages.append(thread_id, new)
    elif found.message != new.message:
        await uow.messages.update(
            thread_id, new.message_id, message=new.message, total_tokens=new.total_tokens, usages=new.usages
        )


def _usage(message: BaseMessage) -> dict[str, Any]:
    used = message.usage_metadata if isinstance(message, AIMessage) else None
    return {"total_tokens": used["total_tokens"], "usages": dict(used)} if used else {}
