"""Transcripts of the Claude Agent SDK in threads: what the session store does in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import accumulate
from typing import Any, Final, NamedTuple

from agent_persistence.encoding.json_escapes import from_storable, to_storable
from agent_persistence.errors import IdempotencyConflictError
from agent_persistence.forms.claude import ClaudeForm
from agent_persistence.forms.form import Found, Item, read, written
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdType
from agent_persistence.integrations.shared_messages import ReadPage, with_ids
from agent_persistence.integrations.shared_threads import ListPage, threads_with
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import MessageRecord, NewMessage, ThreadRecord
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

_FORM: Final = ClaudeForm()
_META: Final = ClaudeForm.key
_PAGE: Final = 1000

Summary = dict[str, Any]
Fold = Callable[[Summary | None, Sequence[Item]], Summary]
"""Adds entries to the summary of a session: the SDK's own function."""


@frozen
class Place:
    """Where a transcript is kept.

    Attributes:
        thread_id: of its thread.
        project: of the session.
        session: its id.
        subpath: of a subagent; ``None`` for the session itself.
    """

    thread_id: Any
    project: str
    session: str
    subpath: str | None


class NewEntry(NamedTuple):
    """An entry to append, and the rows that hold it."""

    item: Item
    rows: Sequence[NewMessage[Any]]


def new_entries(items: Sequence[Item], id_type: IdType[Any]) -> list[NewEntry]:
    """Return entries with their rows; of those with the same ``uuid``, the first.

    Raises:
        InvalidInputError: one is nested too deeply.
    """
    new: dict[Any, NewEntry] = {}
    for index, item in enumerate(items):
        rows = written(_FORM, item, f"entries[{index}]")
        key = item.get("uuid")
        if isinstance(key, str):
            rows = with_ids(rows, key, id_type, "uuid")
        new.setdefault(index if rows[0].message_id is None else str(rows[0].message_id), NewEntry(item, rows))
    return list(new.values())


async def append(
    uow: UnitOfWork[Any, Any],
    *,
    place: Place,
    new: Sequence[NewEntry],
    fold: Fold,
    begins: bool = False,
    after: Any = None,
) -> None:
    """Append entries that the transcript does not have, and keep the summary of the session.

    Args:
        uow: of the owner.
        place: of the transcript.
        new: the entries.
        fold: adds entries to a summary.
        begins: whether the thread is new.
        after: for a new thread, one that must still exist.

    Raises:
        ThreadNotFoundError: the thread does not exist.
        ThreadExistsError: the thread is not new.
    """
    if begins:
        if after is not None:
            await uow.threads.lock(after)
        await uow.threads.create(thread_id=place.thread_id)
    # A summary is read, changed and written: one append to a session at a time.
    thread = await uow.threads.lock(place.thread_id)
    last = await uow.messages.page(place.thread_id, limit=1, asides=True)
    end = max((record.seq for record in last), default=0)
    rows = await _add(uow, place.thread_id, new)
    added = [item for item, record in rows if record.seq > end]
    if added:
        time = max(record.created_at for _, record in rows)
        kept = about(thread)
        # PostgreSQL reads its clock before it gives the lock, and a clock may be set back.
        mtime = max(_milliseconds(time), kept.get("mtime", 0) + 1)
        data = {}
        if place.subpath is None:
            if "data" not in kept and end:  # another framework began it, or somebody replaced meta
                added = [one.item for one in await entries_of(partial(uow.messages.page, place.thread_id))]
            data = {"data": to_storable(fold(_summary(kept, place.session), added)["data"])}
        meta = {**_parts(project=place.project, session=place.session, subpath=place.subpath), "mtime": mtime, **data}
        await uow.threads.update(place.thread_id, meta={**thread.meta, _META: meta})


async def delete(uow: UnitOfWork[Any, Any], *, place: Place) -> None:
    """Delete a transcript; that of a session with those of its subagents."""
    if place.subpath is None:
        for is_archived in (False, True):
            page = partial(uow.threads.page, archived=is_archived)
            for thread in await threads_of(page, project=place.project, session=place.session):
                await uow.threads.delete(thread.thread_id)
    await uow.threads.delete(place.thread_id)


async def entries_of(read_page: ReadPage) -> list[Found]:
    """Return all entries of a thread.

    Args:
        read_page: reads a page of its messages.

    Raises:
        CorruptRowError: a message cannot be read.
    """
    records: list[MessageRecord[Any]] = []
    after: str | None = BEFORE_THE_FIRST
    while True:
        page = await read_page(limit=_PAGE, after=after, asides=_FORM.key)
        if page.corrupt:
            raise page.corrupt[0]
        records += page.items
        if len(page) < _PAGE:
            return read(_FORM, records)
        after = page.after


async def threads_of(list_page: ListPage, **parts: str | None) -> list[ThreadRecord[Any, Any]]:
    """Return the threads of transcripts.

    Args:
        list_page: reads a page of the owner's threads.
        **parts: what they have in common: ``project``, ``session``, ``subpath``.
    """
    found = await threads_with(list_page, {_META: _parts(**parts)})
    return [thread for thread in found if about(thread)]  # others are the application's


def about(thread: ThreadRecord[Any, Any]) -> dict[str, Any]:
    """Return what a thread's ``meta`` says of its transcript; nothing if it was never written by the SDK."""
    kept = thread.meta.get(_META)
    if not isinstance(kept, dict) or "mtime" not in kept:
        return {}
    return {name: from_storable(value) for name, value in kept.items()}


def listed(thread: ThreadRecord[Any, Any]) -> Summary:
    """Return the summary of a session, with the time of its last append in milliseconds.

    The time moves as well, to within ``PERSISTENCE_THREAD_TOUCH_INTERVAL``, if another framework appends.
    """
    kept = about(thread)
    mtime = max(kept["mtime"], _milliseconds(thread.updated_at))
    return {"session_id": kept["session"], "mtime": mtime, "data": kept.get("data", {})}


def _summary(kept: Mapping[str, Any], session: str) -> Summary | None:
    return {"session_id": session, "mtime": kept["mtime"], "data": kept["data"]} if "data" in kept else None


def _parts(**parts: str | None) -> dict[str, Any]:
    return {name: to_storable(part) for name, part in parts.items()}


async def _add(
    uow: UnitOfWork[Any, Any], thread_id: Any, new: Sequence[NewEntry]
) -> list[tuple[Item, MessageRecord[Any]]]:
    """Append entries; return each with its first row, but for those that the thread has with another content."""
    try:
        return await _append_rows(uow, thread_id, new)
    except IdempotencyConflictError:  # one was edited since it was written: the edit stays
        missing = [entry for entry in new if not await _has(uow, thread_id, entry)]
        return await _append_rows(uow, thread_id, missing)


async def _append_rows(
    uow: UnitOfWork[Any, Any], thread_id: Any, new: Sequence[NewEntry]
) -> list[tuple[Item, MessageRecord[Any]]]:
    records = await uow.messages.append_many(thread_id, [row for entry in new for row in entry.rows])
    firsts = accumulate((len(entry.rows) for entry in new), initial=0)
    return [(entry.item, records[first]) for entry, first in zip(new, firsts, strict=False)]


async def _has(uow: UnitOfWork[Any, Any], thread_id: Any, entry: NewEntry) -> bool:
    ids = [row.message_id for row in entry.rows if row.message_id is not None]
    return any([await uow.messages.get(thread_id, message_id) is not None for message_id in ids])


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)
