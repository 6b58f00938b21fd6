"""Reads the messages of a thread from its beginning, by pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from agent_persistence.records import MessageRecord, Page
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

IMPORT: Final = "import"
"""The key of a thread's ``meta`` under which an imported conversation keeps what its line said besides the messages."""

_PAGE_SIZE: Final = 200


async def message_pages(
    read: Callable[..., Awaitable[Page[MessageRecord[Any]]]],
) -> AsyncIterator[Page[MessageRecord[Any]]]:
    """Yield pages from the first message on; ``read`` is ``messages.page`` with the thread bound."""
    after: str | None = BEFORE_THE_FIRST
    while after is not None:
        page = await read(limit=_PAGE_SIZE, after=after)
        yield page
        after = page.after if len(page.items) + len(page.corrupt) == _PAGE_SIZE else None
