"""Reads the messages of a thread from its beginning, by pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from agent_persistence.records import MessageRecord, Page
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

IMPORT: Final = "import"
"""The key of a thread's ``meta`` that shows the application the fields of its line; the record is a table."""

_PAGE_SIZE: Final = 200


def fields_of(thread_id: Any, recorded: Any, meta: Any) -> dict[str, Any]:
    """Return the fields of a thread's line, without the messages.

    Args:
        recorded: the fields in the table of imports, or ``None``.
        meta: of the thread; version 0.1.0 recorded imports there only.
    """
    for found in (recorded, meta.get(IMPORT) if isinstance(meta, dict) else None):
        if isinstance(found, dict) and isinstance(found.get("id"), str):
            return found
    return {"id": str(thread_id)}


async def message_pages(
    read: Callable[..., Awaitable[Page[MessageRecord[Any]]]],
) -> AsyncIterator[Page[MessageRecord[Any]]]:
    """Yield pages from the first message on; ``read`` is ``messages.page`` with the thread bound."""
    after: str | None = BEFORE_THE_FIRST
    while after is not None:
        page = await read(limit=_PAGE_SIZE, after=after)
        yield page
        after = page.after if len(page.items) + len(page.corrupt) == _PAGE_SIZE else None
