"""Pydantic AI: a conversation store whose conversations are threads.

store = PersistenceConversationStore(persistence=persistence, user_id="u-42")
conversation = await store.load("chat-1") or Conversation(conversation_id="chat-1")
await store.save(await agent.run("Hello", conversation=conversation))
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from agent_persistence.concurrency.shielding import settled
from agent_persistence.errors import CorruptRowError, InvalidInputError, MessageNotFoundError, MissingExtraError
from agent_persistence.forms.differences import is_same
from agent_persistence.forms.form import Item
from agent_persistence.integrations import pydantic_conversations as conversations
from agent_persistence.integrations.bridge import in_store
from agent_persistence.integrations.json_values import json_errors
from agent_persistence.integrations.pydantic_conversations import ConversationChangedError, Entry, EntryMissingError
from agent_persistence.integrations.shared_messages import message_id_of
from agent_persistence.integrations.shared_threads import thread_id_of, threads_with
from agent_persistence.persistence import Persistence

try:
    from pydantic_ai.conversation_store import (
        ConversationConflict,
        ConversationEntry,
        ConversationRecord,
        ConversationStore,
    )
    from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter
except ImportError as error:
    raise MissingExtraError("pydantic-ai") from error

__all__ = ["PersistenceConversationStore"]

T = TypeVar("T")

_RECORDS: Final[TypeAdapter[list[ConversationRecord]]] = TypeAdapter(
    list[ConversationRecord], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)
_AT_ONCE: Final = 100


class PersistenceConversationStore(ConversationStore):
    """A conversation store of Pydantic AI in your threads: what is said is read by every other framework.

    A conversation is a thread, and begins with its first save. Messages that other programs append to it are part of
    its history. The histories that it has left stay in the thread, where only this store reads them. A fork is a thread
    of its own, with copies of the messages that it shares. The store may be used from several event loops.

    Args:
        persistence: the store; the one of ``shared_persistence`` if left out, opened from the environment when it is
            first used.
        user_id: the owner. Conversations of other owners are as if they did not exist, whatever their ``scope`` is.

    Raises:
        InvalidInputError: ids of the database are numbers.
    """

    def __init__(self, *, persistence: Persistence[Any, Any] | None = None, user_id: Any) -> None:
        self._persistence = persistence
        self._user_id = user_id
        if persistence is not None:
            persistence.models.id_types.user.validate(user_id, "user_id")
            _thread_id(persistence, "c")  # refused now, not by the first call

    async def read_record(self, conversation_id: str) -> ConversationRecord | None:
        """Return the record of a conversation; ``None`` if nothing was said in it.

        Its revision also changes when another program appends to the thread, or deletes its last message.

        Raises:
            CorruptRowError: the record or the last message cannot be read.
        """
        return await self._call(partial(self._record, conversation_id=conversation_id))

    async def read_records(self, *, scope: str | None = None, limit: int | None = None) -> Sequence[ConversationRecord]:
        """Return the records of the owner's conversations, the last saved first; archived threads are left out.

        Threads that Pydantic AI has never saved are left out as well. All records are read, whatever the limit.

        Args:
            scope: only those that were saved with it.
            limit: how many at most.

        Raises:
            CorruptRowError: a record or a last message cannot be read.
        """
        found = await self._call(partial(self._records, scope=scope))
        return sorted(found, key=lambda record: record.updated_at, reverse=True)[:limit]

    async def write_record(
        self,
        record: ConversationRecord,
        *,
        new_entries: Sequence[ConversationEntry] = (),
        expected_revision: str | None,
    ) -> None:
        """Keep a record with its new entries, all or nothing.

        If the caller is cancelled, the outcome is awaited first.

        Raises:
            ConversationConflict: it was saved or deleted since it was read, by this framework or another program; the
                id belongs to another owner; or the entry that it continues is gone.
            InvalidInputError: a message has no JSON form that comes back equal, or is too large; or the entries are
                no chain that ends at ``head_id``.
        """
        last = new_entries[-1].id if new_entries else record.head_id
        parents = [entry.parent_id for entry in new_entries[1:]]
        if record.head_id != last or parents != [entry.id for entry in new_entries[:-1]]:
            raise InvalidInputError("new_entries", "must be a chain that ends at head_id")
        items = [_item(entry, f"new_entries[{index}]") for index, entry in enumerate(new_entries)]
        write = partial(self._write, record=record, entries=new_entries, items=items, expected=expected_revision)
        with _conflicts(record.conversation_id):
            await settled(self._call(write))

    async def delete_record(self, conversation_id: str, *, expected_revision: str) -> None:
        """Delete a conversation with its thread: all messages, those of histories that it has left, and its states.

        Forks keep their copies. If the caller is cancelled, the outcome is awaited first.

        Raises:
            ConversationConflict: it was saved or deleted since it was read.
        """
        delete = partial(self._delete, conversation_id=conversation_id, expected=expected_revision)
        with _conflicts(conversation_id):
            await settled(self._call(delete))

    async def read_entry(self, entry_id: str) -> ConversationEntry:
        """Return an entry.

        If ``entry_id`` is a text that this store has not returned, each thread of the owner is asked.

        Raises:
            MessageNotFoundError: there is none; it is a ``LookupError``.
            CorruptRowError: a message cannot be read.
        """
        [entry] = await self.read_history(entry_id, limit=1)
        return entry

    async def read_history(self, head_id: str | None, *, limit: int | None = None) -> list[ConversationEntry]:
        """Return the entries from the first one to ``head_id``.

        If ``head_id`` is a text that this store has not returned, each thread of the owner is asked.

        Args:
            head_id: the last entry.
            limit: how many at most, the last ones.

        Raises:
            MessageNotFoundError: there is no such entry; it is a ``LookupError``.
            CorruptRowError: a message cannot be read. None is passed by.
        """
        if head_id is None or limit == 0:
            return []
        return await self._call(partial(self._history, head_id=head_id, limit=limit))

    async def _call(self, work: Callable[[Persistence[Any, Any]], Coroutine[Any, Any, T]]) -> T:
        return await in_store(self._persistence, work)

    async def _record(self, persistence: Persistence[Any, Any], *, conversation_id: str) -> ConversationRecord | None:
        thread_id = _thread_id(persistence, conversation_id)
        kept = await conversations.kept(
            partial(persistence.threads.get, thread_id, user_id=self._user_id),
            partial(persistence.messages.page, thread_id, user_id=self._user_id),
        )
        return None if kept is None else _framework_record(kept.record, conversation_id, thread_id)

    async def _records(self, persistence: Persistence[Any, Any], *, scope: str | None) -> list[ConversationRecord]:
        wanted = conversations.wanted_meta(scope)
        threads = await threads_with(partial(persistence.threads.page, user_id=self._user_id), wanted)
        ids = [name for name in map(conversations.conversation_id, threads) if name is not None]
        found: list[ConversationRecord | None] = []
        for first in range(0, len(ids), _AT_ONCE):  # calls at the same time share statements
            some = ids[first : first + _AT_ONCE]
            found += await asyncio.gather(*[self._record(persistence, conversation_id=one) for one in some])
        return [record for record in found if record is not None and scope in (None, record.scope)]

    async def _write(
        self,
        persistence: Persistence[Any, Any],
        *,
        record: ConversationRecord,
        entries: Sequence[ConversationEntry],
        items: Sequence[Item],
        expected: str | None,
    ) -> None:
        id_type = persistence.models.id_types.id
        new = [
            conversations.new_entry(item, entry.id, entry.parent_id, id_type, f"new_entries[{index}]")
            for index, (entry, item) in enumerate(zip(entries, items, strict=True))
        ]
        write = partial(
            conversations.write,
            thread_id=_thread_id(persistence, record.conversation_id),
            record=_json_record(record),
            new=new,
            expected=expected,
        )
        parent = new[0].parent if new else record.head_id
        shared = [] if record.forked_from is None else [_thread_id(persistence, record.forked_from)]
        if isinstance(parent, _EntryId):
            shared.append(parent.thread_id)
        try:
            await persistence.run(partial(write, sources=shared), user_id=self._user_id)
        except EntryMissingError:
            shared = [place async for place in self._places(persistence, str(parent))]
            if not shared:
                raise
            await persistence.run(partial(write, sources=shared), user_id=self._user_id)

    async def _delete(self, persistence: Persistence[Any, Any], *, conversation_id: str, expected: str) -> None:
        thread_id = _thread_id(persistence, conversation_id)
        delete = partial(conversations.delete, thread_id=thread_id, expected=expected)
        await persistence.run(delete, user_id=self._user_id)

    async def _history(
        self, persistence: Persistence[Any, Any], *, head_id: str, limit: int | None
    ) -> list[ConversationEntry]:
        if isinstance(head_id, _EntryId):
            if found := await self._line(persistence, head_id.thread_id, head_id, limit):
                return found
        else:
            async for thread_id in self._places(persistence, head_id):
                if found := await self._line(persistence, thread_id, head_id, limit):
                    return found
        raise MessageNotFoundError(getattr(head_id, "thread_id", None), head_id)

    async def _line(
        self, persistence: Persistence[Any, Any], thread_id: Any, head_id: str, limit: int | None
    ) -> list[ConversationEntry]:
        read_page = partial(persistence.messages.page, thread_id, user_id=self._user_id)
        return _framework_entries(await conversations.line(read_page, head=head_id, limit=limit) or [], thread_id)

    async def _places(self, persistence: Persistence[Any, Any], entry_id: str) -> AsyncIterator[Any]:
        """Find the threads of the owner that have an entry: ids of messages are unique in their thread only."""
        message_id = message_id_of(entry_id, persistence.models.id_types.id, "entry_id")
        for is_archived in (False, True):
            list_page = partial(persistence.threads.page, user_id=self._user_id, archived=is_archived)
            ids = [thread.thread_id for thread in await threads_with(list_page, None)]
            for first in range(0, len(ids), _AT_ONCE):
                some = ids[first : first + _AT_ONCE]
                gets = [persistence.messages.get(one, message_id, user_id=self._user_id) for one in some]
                for thread_id, message in zip(some, await asyncio.gather(*gets), strict=True):
                    if message is not None:
                        yield thread_id


class _EntryId(str):
    """The id of an entry that knows its thread: Pydantic AI asks for a history without the conversation's id."""

    __slots__ = ("thread_id",)

    thread_id: Any

    def __new__(cls, text: str, thread_id: Any) -> _EntryId:
        made = super().__new__(cls, text)
        made.thread_id = thread_id
        return made

    def __getnewargs__(self) -> tuple[str, Any]:  # type: ignore[override]  # so that copies know it as well
        return str(self), self.thread_id


@contextmanager
def _conflicts(conversation_id: str) -> Iterator[None]:
    try:
        yield
    except ConversationChangedError as changed:
        raise ConversationConflict(conversation_id) from changed


def _thread_id(persistence: Persistence[Any, Any], conversation_id: str) -> Any:
    return thread_id_of(conversation_id, persistence.models.id_types.id, "conversation_id")


def _item(entry: ConversationEntry, field: str) -> Item:
    """Return a message as JSON, without what it says by leaving it out."""
    if entry.kind != "message":
        raise InvalidInputError(field, "is an entry of a kind that this version does not know; update this package")
    with json_errors(field):
        whole, slim = _dumped(entry.message), _dumped(entry.message, exclude_none=True)
        if isinstance(slim.get("usage"), dict):
            slim["usage"] = {name: number for name, number in slim["usage"].items() if number}
        for item in (slim, whole):
            if is_same(_dumped(_framework_message(item)), whole):
                return item
    raise InvalidInputError(field, "does not come back equal from Pydantic AI's own JSON")


def _dumped(message: ModelMessage, **how: Any) -> Item:
    [item] = ModelMessagesTypeAdapter.dump_python([message], mode="json", **how)
    found: Item = item
    return found


def _framework_message(item: Item) -> ModelMessage:
    [message] = _validated(ModelMessagesTypeAdapter, item)
    return message


def _validated(adapter: TypeAdapter[list[T]], value: Item) -> list[T]:
    """Read a value from JSON, of which pydantic takes everything but lone surrogates."""
    try:
        text = json.dumps([value], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return adapter.validate_python([_with_bytes(value)])
    return adapter.validate_json(text)


def _with_bytes(value: Any) -> Any:
    """Return a value with the bytes that JSON holds as base64: pydantic decodes those of a JSON text only."""
    if isinstance(value, dict):
        if value.get("kind") == "binary" and isinstance(value.get("data"), str):
            value = {**value, "data": base64.urlsafe_b64decode(value["data"])}
        return {name: _with_bytes(inner) for name, inner in value.items()}
    return [_with_bytes(inner) for inner in value] if isinstance(value, list) else value


def _json_record(record: ConversationRecord) -> Item:
    with json_errors("record"):
        [value] = _RECORDS.dump_python([record], mode="json")
        found: Item = value
        return found


def _framework_record(record: Item, conversation_id: str, thread_id: Any) -> ConversationRecord:
    try:
        [found] = _validated(_RECORDS, {**record, "conversation_id": conversation_id})
    except ValidationError as error:
        raise CorruptRowError("thread", thread_id, "meta") from error
    if found.head_id is not None:
        found.head_id = _EntryId(found.head_id, thread_id)
    found.branches = [_EntryId(branch, thread_id) for branch in found.branches]
    return found


def _framework_entries(entries: Sequence[Entry], thread_id: Any) -> list[ConversationEntry]:
    """Return entries as the framework has them, those of other programs with their times and the names of tools."""
    tools = conversations.tools_in(entries)
    found: list[ConversationEntry] = []
    for entry in entries:
        item = entry.found.item if entry.found.is_own else conversations.completed(entry.found, tools)
        try:
            message = _framework_message(item)
        except ValidationError as error:
            raise CorruptRowError("message", (thread_id, entry.found.records[0].message_id), "meta") from error
        parent = None if entry.parent is None else _EntryId(entry.parent, thread_id)
        found.append(ConversationEntry(id=_EntryId(entry.id, thread_id), parent_id=parent, message=message))
    return found
