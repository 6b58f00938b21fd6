"""Items of a framework in the messages of a thread: their ids, and the last of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Final

from agent_persistence.errors import InvalidInputError
from agent_persistence.forms.form import Form, Found, number_of_later_parts, read
from agent_persistence.ids import IdType
from agent_persistence.integrations.shared_threads import uuid_of
from agent_persistence.records import MessageRecord, NewMessage, Page

_PAGE: Final = 1000

ReadPage = Callable[..., Awaitable[Page[MessageRecord[Any]]]]


async def last_items(form: Form, read_page: ReadPage, wanted: int | None = None) -> list[Found]:
    """Return the last items of a thread, in their order.

    Pages of messages are read backwards until they hold enough.

    Args:
        form: of the items.
        read_page: reads a page of the messages of the thread.
        wanted: how many items at most, at least 1; all of them if left out.

    Raises:
        CorruptRowError: a message cannot be read. None is passed by.
    """
    found: list[Found] = []
    held: list[MessageRecord[Any]] = []  # parts of an item that begins on an older page
    before: str | None = None
    while True:
        limit = _PAGE if wanted is None else min(wanted - len(found), _PAGE)
        page = await read_page(limit=limit, before=before, asides=form.key)
        if page.corrupt:
            raise page.corrupt[0]
        rows, before = [*page.items, *held], page.before
        first = 0 if before is None else number_of_later_parts(form, rows)
        held, found[:0] = rows[:first], read(form, rows[first:])
        if before is None or (wanted is not None and len(found) >= wanted):
            return found[-(wanted or 0) :]


def with_ids(rows: Sequence[NewMessage[Any]], key: str, id_type: IdType[Any], field: str) -> list[NewMessage[Any]]:
    """Return the messages that hold an item under ids of its own, by which a repeated append finds them.

    The first one's is the item's id where it can be one, and otherwise a UUID made of it. Those of later parts are
    always made: no item has such an id.

    Args:
        rows: the messages.
        key: the id of the item, unique in its thread.
        id_type: the type of message ids in this database, which is not of numbers.
        field: names the id in errors.
    """
    made = (id_type.parse(str(uuid_of(json.dumps([key, part]))), field) for part in range(1, len(rows)))
    ids = [message_id_of(key, id_type, field), *made]
    return [replace(row, message_id=message_id) for row, message_id in zip(rows, ids, strict=True)]


def message_id_of(key: str, id_type: IdType[Any], field: str) -> Any:
    """Return the id of the first message of an item for the item's own id; see ``with_ids``."""
    try:
        return id_type.parse_exact(key, field)
    except InvalidInputError:
        return id_type.parse(str(uuid_of(key)), field)
