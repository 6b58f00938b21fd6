"""Conversations of Pydantic AI in threads: what the conversation store does in a transaction.

An entry of theirs is a message, or several in a row. The entries of the current history are the messages of the thread,
so they need no pointers. Entries of a history that was left stay in the thread as asides of another name, with their
place among the others. The record is in the thread's ``meta``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.errors import ConflictError, ThreadExistsError, ThreadNotFoundError
from agent_persistence.forms.form import Found, Item, number_of_later_parts, read, without_forms, written
from agent_persistence.forms.pydantic_ai import PydanticAIForm
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdType
from agent_persistence.integrations.shared_messages import ReadPage, with_ids
from agent_persistence.integrations.shared_threads import uuid_of
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import MessageRecord, NewMessage, Page, ThreadRecord
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

FORM: Final = PydanticAIForm()
_META: Final = FORM.key
_LEFT: Final = f"{FORM.key}.left"
"""The name of asides whose history was left, and the key of what their ``meta`` says of it."""
_PAGE: Final = 1000

Record = dict[str, Any]
"""A ``ConversationRecord`` as JSON."""
Thread = ThreadRecord[Any, Any]


class ConversationChangedError(ConflictError):
    """A conversation was saved or deleted by another writer since it was read."""

    def __init__(self, thread_id: Any) -> None:
        super().__init__(f"the conversation in thread {thread_id!r} has changed; load it again before saving")
        self.thread_id = thread_id


class EntryMissingError(ConversationChangedError):
    """The record points to an entry that neither its thread has, nor those that it may share it with."""


@frozen
class Entry:
    """An entry as it is stored.

    Attributes:
        id: what Pydantic AI calls it by.
        parent: the id of the entry before it.
        found: its message, and the rows that hold it.
    """

    id: str
    parent: str | None
    found: Found


@frozen
class NewEntry:
    """An entry to append.

    Attributes:
        id: what Pydantic AI calls it by.
        parent: the id of the entry before it.
        rows: its messages.
    """

    id: str
    parent: str | None
    rows: Sequence[NewMessage[Any]]


@frozen
class Kept:
    """What a thread says of its conversation.

    Attributes:
        record: its record, as of its last message, whoever wrote it.
        head: its last entry.
    """

    record: Record
    head: Entry | None


def new_entry(item: Item, entry_id: str, parent: str | None, id_type: IdType[Any], field: str) -> NewEntry:
    """Return the rows of a new entry.

    Raises:
        InvalidInputError: it is nested too deeply.
    """
    rows = with_ids(written(FORM, item, field), entry_id, id_type, "entry_id")
    if str(rows[0].message_id) != entry_id:
        meta = rows[0].meta.get(_META, {})
        rows[0] = replace(rows[0], meta={_META: {**meta, "id": to_storable(entry_id)}})
    return NewEntry(entry_id, parent, rows)


async def kept(read_thread: Callable[[], Awaitable[Thread | None]], read_page: ReadPage) -> Kept | None:
    """Return what a thread says of its conversation; ``None`` if it does not exist, or nothing was ever said in it.

    Args:
        read_thread: reads the thread.
        read_page: reads a page of its messages.

    Raises:
        CorruptRowError: the last message cannot be read.
    """
    thread = await read_thread()
    while thread is not None:
        head, own = await _head(read_page), _own(thread)
        if own is not None and own.get("last") == _last_id(head):
            return Kept({**_record(own), "head_id": None if head is None else head.id}, head)
        again = await read_thread()
        if again is not None and _own(again) == own:
            return await _continued(thread, own, head, read_page)
        thread = again  # it was saved between the two reads
    return None


async def line(read_page: ReadPage, *, head: str | None = None, limit: int | None = None) -> list[Entry] | None:
    """Return the history up to an entry; ``None`` if the thread does not have it.

    Args:
        read_page: reads a page of the thread's messages.
        head: the entry; the last one if left out.
        limit: how many entries at most, the last ones.

    Raises:
        CorruptRowError: a message cannot be read. None is passed by.
    """
    if limit == 0:
        return []
    records: list[MessageRecord[Any]] = []
    before: str | None = None
    while True:
        # One more, to know the entry before the first.
        page = await read_page(limit=_PAGE if limit is None else min(limit + 1, _PAGE), before=before, asides=_META)
        records[:0] = _readable(page)
        before = page.before
        if before is None or (limit is not None and not number_of_later_parts(FORM, records)):
            found = _up_to(_chained(read(FORM, records)), head)
            if found and (before is None or len(found) > (limit or 0)):
                return found[-(limit or 0) :]
        if before is None:
            break
    if head is None:
        return []
    left = _line_in(_entries_in(await _all_rows(read_page)), head)
    return left and left[-(limit or 0) :]


async def write(
    uow: UnitOfWork[Any, Any],
    *,
    thread_id: Any,
    record: Record,
    new: Sequence[NewEntry],
    expected: str | None,
    sources: Sequence[Any],
) -> None:
    """Keep a record with the entries that its history adds.

    Args:
        uow: of the owner.
        thread_id: of the conversation.
        record: as it is from now on.
        new: the entries, each after the one before.
        expected: the revision that the record has now; ``None`` if there is none.
        sources: threads that may hold an entry which the record points to, and this thread lacks: that of the
            conversation it is a fork of.

    Raises:
        ConversationChangedError: it has another one.
        EntryMissingError: none of these threads has the entry before the new ones.
    """
    thread = await _locked(uow, thread_id, begins=expected is None)
    read_page = partial(uow.messages.page, thread_id)
    now = await _kept_in(thread, read_page)
    if (None if now is None else now.record["revision"]) != expected:
        raise ConversationChangedError(thread_id)
    parent = new[0].parent if new else record["head_id"]
    head = None if now is None else now.head
    if parent != (None if head is None else head.id):
        await _switch(uow, thread_id, read_page, parent, sources)
    await uow.messages.append_many(thread_id, [row for entry in new for row in entry.rows])
    last = str(new[-1].rows[-1].message_id) if new else _last_id(await _head(read_page))
    own = {"record": {name: to_storable(value) for name, value in record.items() if name != "head_id"}, "last": last}
    await uow.threads.update(thread_id, meta={**thread.meta, _META: own})


async def delete(uow: UnitOfWork[Any, Any], *, thread_id: Any, expected: str) -> None:
    """Delete a conversation with its thread; forks have copies of what they share.

    Raises:
        ConversationChangedError: its record has another revision; or there is none.
    """
    thread = await _locked(uow, thread_id, begins=False)
    now = await _kept_in(thread, partial(uow.messages.page, thread_id))
    if now is None or now.record["revision"] != expected:
        raise ConversationChangedError(thread_id)
    await uow.threads.delete(thread_id)


def conversation_id(thread: Thread) -> str | None:
    """Return what Pydantic AI calls the conversation of a thread; ``None`` if it has never saved it."""
    own = _own(thread)
    name = None if own is None else _record(own).get("conversation_id")
    return name if isinstance(name, str) else None


def tools_in(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the names of tools by the ids of their calls."""
    parts = [part for entry in entries for part in entry.found.item.get("parts", ()) if isinstance(part, dict)]
    return {part["tool_call_id"]: part["tool_name"] for part in parts if part.get("part_kind") == "tool-call"}


def completed(found: Found, tools: Mapping[str, str]) -> Item:
    """Return the message of another program as the same one each time: with its time, and the name of its tool.

    Args:
        found: the message.
        tools: the names of tools by the ids of calls.
    """
    time = {"timestamp": found.records[0].created_at.isoformat()}
    if found.item["kind"] == "response":
        return {**found.item, **time}
    parts = [
        {**part, **time, "tool_name": tools.get(part["tool_call_id"], part["tool_name"])}
        if part["part_kind"] == "tool-return"
        else {**part, **time}
        for part in found.item["parts"]
    ]
    return {**found.item, **time, "parts": parts}


def wanted_meta(scope: str | None) -> dict[str, Any]:
    """Return what the ``meta`` of a thread contains if it holds a conversation of this scope; of any for ``None``."""
    return {_META: {"record": {} if scope is None else {"scope": to_storable(scope)}}}


async def _locked(uow: UnitOfWork[Any, Any], thread_id: Any, *, begins: bool) -> Thread:
    try:
        await uow.threads.lock(thread_id)
        return await uow.threads.require(thread_id)
    except ThreadNotFoundError as gone:
        if not begins:
            raise ConversationChangedError(thread_id) from gone
    try:
        return await uow.threads.create(thread_id=thread_id)
    except ThreadExistsError as taken:  # by another owner, or a moment ago
        raise ConversationChangedError(thread_id) from taken


async def _kept_in(thread: Thread, read_page: ReadPage) -> Kept | None:
    """Return what a locked thread says of its conversation."""

    async def read_thread() -> Thread:
        return thread

    return await kept(read_thread, read_page)


def _own(thread: Thread) -> Mapping[str, Any] | None:
    own = thread.meta.get(_META)
    return own if isinstance(own, dict) and isinstance(own.get("record"), dict) else None


def _record(own: Mapping[str, Any]) -> Record:
    return {name: from_storable(value) for name, value in own["record"].items()}


async def _head(read_page: ReadPage) -> Entry | None:
    return next(iter(await line(read_page, limit=1) or ()), None)


def _last_id(head: Entry | None) -> str | None:
    return None if head is None else str(head.found.records[-1].message_id)


async def _continued(
    thread: Thread, own: Mapping[str, Any] | None, head: Entry | None, read_page: ReadPage
) -> Kept | None:
    """Return the record of a thread whose last message was written or deleted by another program."""
    head_id = None if head is None else head.id
    if own is not None:
        record = _record(own)
        revision = str(uuid_of(f"{record['revision']}/{_last_id(head)}"))
        if record.get("branches"):  # somebody may have cleared the thread
            entries = _entries_in(await _all_rows(read_page))
            record["branches"] = [branch for branch in record["branches"] if branch in entries]
        return Kept({**record, "head_id": head_id, "revision": revision}, head)
    if head is None:
        return None
    revision = str(uuid_of(f"{thread.thread_id}/{thread.created_at.isoformat()}/{_last_id(head)}"))
    return Kept({"head_id": head_id, "revision": revision, "updated_at": thread.updated_at.isoformat()}, head)


def _readable(page: Page[MessageRecord[Any]]) -> Sequence[MessageRecord[Any]]:
    if page.corrupt:
        raise page.corrupt[0]
    return page.items


def _id_of(record: MessageRecord[Any]) -> str:
    own = record.meta.get(_META)
    kept_id = from_storable(own["id"]) if isinstance(own, dict) and "id" in own else None
    return kept_id if isinstance(kept_id, str) else str(record.message_id)


def _chained(found: Sequence[Found]) -> list[Entry]:
    """Return the entries of one history, each after the one before."""
    ids = [_id_of(one.records[0]) for one in found]
    return [Entry(entry_id, parent, one) for entry_id, parent, one in zip(ids, [None, *ids], found, strict=False)]


def _up_to(entries: list[Entry], head: str | None) -> list[Entry]:
    places = [place for place, entry in enumerate(entries) if entry.id == head]
    return entries if head is None else entries[: places[0] + 1] if places else []


async def _all_rows(read_page: ReadPage) -> list[MessageRecord[Any]]:
    records: list[MessageRecord[Any]] = []
    after: str | None = BEFORE_THE_FIRST
    while True:
        page = await read_page(limit=_PAGE, after=after, asides=True)
        records += _readable(page)
        if len(page) < _PAGE:
            return records
        after = page.after


def _entries_in(rows: Sequence[MessageRecord[Any]]) -> dict[str, Entry]:
    """Return the entries of the current history, and those of the histories that were left."""
    current = _chained(read(FORM, [row for row in rows if row.aside in (None, _META)]))
    left = read(FORM, [_as_it_was(row) for row in rows if row.aside == _LEFT])
    parents = {row.message_id: _mark(row).get("parent") for row in rows if row.aside == _LEFT}
    entries = [Entry(_id_of(one.records[0]), parents[one.records[0].message_id], one) for one in left]
    return {entry.id: entry for entry in [*entries, *current]}


def _line_in(entries: Mapping[str, Entry], head: str) -> list[Entry] | None:
    if head not in entries:
        return None
    found: dict[str, Entry] = {}
    at: str | None = head
    while at is not None and at in entries and at not in found:  # one that another program deleted ends it
        found[at] = entries[at]
        at = entries[at].parent
    return list(found.values())[::-1]


def _mark(row: MessageRecord[Any]) -> Mapping[str, Any]:
    mark = row.meta.get(_LEFT)
    return {name: from_storable(value) for name, value in mark.items()} if isinstance(mark, dict) else {}


def _as_it_was(row: MessageRecord[Any]) -> MessageRecord[Any]:
    """Return a row of a history that was left as it was before."""
    meta = {name: value for name, value in row.meta.items() if name != _LEFT}
    return replace(row, aside=_META if _mark(row).get("aside") else None, meta=meta)


async def _switch(
    uow: UnitOfWork[Any, Any],
    thread_id: Any,
    read_page: ReadPage,
    head: str | None,
    sources: Sequence[Any],
) -> None:
    """Make the history up to an entry the current one: leave the others, and copy what another thread has of it."""
    all_rows = await _all_rows(read_page)
    entries, rows = _entries_in(all_rows), {row.message_id: row for row in all_rows}
    wanted = [] if head is None else _line_in(entries, head)
    if wanted is None:
        wanted = await _line_elsewhere(uow, head, sources)
    if wanted is None:
        raise EntryMissingError(thread_id)
    ids = {entry.id for entry in wanted}
    for entry in entries.values():
        for record in entry.found.records:
            row = rows[record.message_id]
            if row.aside == _LEFT and entry.id in ids:
                was = _as_it_was(row)
                await uow.messages.update(thread_id, row.message_id, aside=was.aside, meta=was.meta)
            elif row.aside != _LEFT and entry.id not in ids:
                mark = {"parent": to_storable(entry.parent), "aside": row.aside is not None}
                await uow.messages.update(thread_id, row.message_id, aside=_LEFT, meta={**row.meta, _LEFT: mark})
    missing = [entry for entry in wanted if entry.id not in entries]
    await uow.messages.append_many(thread_id, [row for entry in missing for row in _copies(entry)])


async def _line_elsewhere(uow: UnitOfWork[Any, Any], head: str | None, sources: Sequence[Any]) -> list[Entry] | None:
    for source in sources:
        if found := await line(partial(uow.messages.page, source), head=head):
            return found
    return None


def _copies(entry: Entry) -> list[NewMessage[Any]]:
    copies: list[NewMessage[Any]] = []
    for row in entry.found.records:
        # A copy no longer shows that its message was edited: what frameworks kept of the old one must not come back.
        is_edited = row.updated_at != row.created_at
        meta = row.meta if entry.found.is_own or not is_edited else without_forms(row.meta)
        copies.append(
            NewMessage(
                message=row.message,
                message_id=row.message_id,
                total_tokens=row.total_tokens,
                usages=row.usages,
                meta=meta,
                aside=row.aside,
            )
        )
    return copies
