"""The messages of a graph as rows of ``messages``, for history, search and export."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from langchain_core.messages import RemoveMessage
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from agent_persistence.errors import CorruptRowError, IdempotencyConflictError, InvalidInputError
from agent_persistence.forms.form import read, written
from agent_persistence.forms.langgraph import SUMMARY
from agent_persistence.ids import IdType
from agent_persistence.integrations.langgraph.message_items import FORM, item_of, message_of, text_only, usage_of
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import MessageRecord, NewMessage

logger: Final = logging.getLogger("agent_persistence")

FOLLOWS: Final = "follows"
"""The key of a mirrored message's ``meta``: the id of the message before it in the graph, so that branches show.

``None`` for the first message."""
CHECKPOINT: Final = "checkpoint_id"
"""The key of a mirrored message's ``meta``: the first checkpoint that has the message, to run the graph from there."""
_OWN_CHANNELS: Final = ("__", "branch:")
"""What the names of LangGraph's own channels begin with."""
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://langchain-ai.github.io/langgraph#messages")


class Mirror:
    """Writes the new and changed messages of a channel to ``messages``.

    Args:
        channel: the channel's name.
        id_type: the id type of ``messages``.
        is_named: whether the application has named the channel: a graph without it is a mistake then.

    Raises:
        InvalidInputError: ids are numbers, so a message cannot keep the id that the graph gave it.
    """

    def __init__(self, channel: str, id_type: IdType[Any], *, is_named: bool = True) -> None:
        if id_type.python_type is int:
            raise InvalidInputError("mirror", "needs PERSISTENCE_ID_TYPE=string or uuid: a message keeps its own id")
        self.channel = channel
        self._id_type = id_type
        self._is_named = is_named
        self._has_warned = self._has_met_others = False

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
        # A summary of earlier messages, or instructions that a node adds: what was said already follows it.
        is_inserted = is_whole and new_indexes is not None and 0 in new_indexes and len(new_indexes) < len(messages)
        # Of two with the same id, which a reducer other than add_messages may keep, the last one counts.
        new: dict[Any, NewMessage[Any]] = {}
        for index in indexes:
            at_start = is_inserted and index == 0
            try:
                rows = [*self._rows(messages, index, meta, starts=is_whole, replaces_beginning=at_start)]
            except Exception as error:  # noqa: BLE001 - of a message's own class, which may do anything
                warn_of(f"{checkpoint_id}/{index}", f"{type(error).__name__} was raised")
                continue
            new |= {row.message_id: row for row in rows}
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

    def warn_without(self, channels: Collection[str]) -> None:
        """Say once that a graph whose first nodes have run has no such channel.

        Args:
            channels: the channels that the graph has written.
        """
        if self._is_named and not self._has_warned and self.channel not in channels:
            self._has_warned = True
            fields = {"event_name": "graph.no_such_channel", "channel": self.channel}
            known = ", ".join(sorted(name for name in channels if not name.startswith(_OWN_CHANNELS)))
            logger.warning("mirror=%r names no channel of this graph, which has %s", self.channel, known, extra=fields)

    def _rows(
        self, messages: list[Any], index: int, meta: Mapping[str, str], *, starts: bool, replaces_beginning: bool
    ) -> Iterator[NewMessage[Any]]:
        default_id = f"{meta[CHECKPOINT]}/{index}"
        message = message_of(messages[index])
        if message is None:
            self._warn_of_others(default_id)
        if message is None or isinstance(message, RemoveMessage):
            return
        own_id = message.id or default_id
        item = item_of(message)
        # One message of LangChain can be several of the chat-completions shape: they get numbered ids. Without an own
        # id even the first is numbered, as it always was: stored ids depend on it.
        row_id = self._message_id(own_id if message.id else f"{own_id}/0")
        if str(row_id) != message.id:
            item["id"] = message.id
        before = _id_of(messages[index - 1]) if index else None
        follows = None if before is None or _is_summary(messages[index - 1]) else str(self._message_id(before))
        is_first = starts and not index
        for number, row in enumerate(written(FORM, item)):
            message_id = row_id if not number else self._message_id(f"{own_id}/{number}")
            # ``None`` is said, so that a first message that was edited is a branch too.
            place: dict[str, Any] = {FOLLOWS: follows} if follows or is_first else {}
            usage = {} if number else usage_of(message)
            is_aside = row.aside is not None or replaces_beginning
            yield replace(
                row,
                message_id=message_id,
                meta={**meta, **place, **row.meta},
                aside=FORM.key if is_aside else None,
                **usage,
            )
            follows, is_first = str(message_id), False

    def _warn_of_others(self, default_id: str) -> None:
        if not self._has_met_others:  # a channel of other things would say so at each step
            self._has_met_others = True
            warn_of(default_id, "it is no message")

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
        warn_of(new.message_id, "its row cannot be read")
    except InvalidInputError as refusal:
        warn_of(new.message_id, f"{refusal.reason}; its text alone is tried")
        try:
            meta = {key: value for key, value in new.meta.items() if key != FORM.key}
            new = replace(new, message=text_only(new.message), usages={}, meta=meta)
            await _add_or_update(uow, thread_id, new)
        except InvalidInputError as second:
            warn_of(new.message_id, second.reason)


async def _add_or_update(uow: UnitOfWork[Any, Any], thread_id: Any, new: NewMessage[Any]) -> None:
    found = await uow.messages.get(thread_id, new.message_id)
    if found is None:
        await uow.messages.append(thread_id, new)
    elif not _says(found, new):
        meta = {key: value for key, value in found.meta.items() if key != FORM.key}
        meta |= {key: value for key, value in new.meta.items() if key == FORM.key}
        await uow.messages.update(
            thread_id,
            new.message_id,
            message=new.message,
            total_tokens=new.total_tokens,
            usages=new.usages,
            meta=meta,
        )


def _says(found: MessageRecord[Any], new: NewMessage[Any]) -> bool:
    """Whether a row says what a graph's message says, in the words of whoever wrote it.

    A message of another framework that a graph was given is that framework's own, unless the graph changes it.
    """
    if found.message == new.message and found.meta.get(FORM.key) == new.meta.get(FORM.key):
        return True
    again = [row for one in read(FORM, [found]) for row in written(FORM, one.item)]
    said = [(row.message, row.meta.get(FORM.key)) for row in again]
    return said == [(new.message, new.meta.get(FORM.key))]


def _id_of(message: Any) -> str | None:
    own_id = message.get("id") if isinstance(message, Mapping) else getattr(message, "id", None)
    return own_id if own_id and isinstance(own_id, str) else None


def _is_summary(message: Any) -> bool:
    """Whether a message stands for those before it, and so has no place in a branch."""
    kwargs = getattr(message, "additional_kwargs", None)
    return isinstance(kwargs, Mapping) and kwargs.get("lc_source") == SUMMARY


def warn_of(message_id: Any, reason: str) -> None:
    """Say that a message is not mirrored whole, without contents: only its id and the reason."""
    fields = {"event_name": "graph.not_mirrored", "message_id": message_id}
    logger.warning("message %r of a graph is not mirrored whole: %s", message_id, reason, extra=fields)
