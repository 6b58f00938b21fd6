"""The messages of a thread from its beginning, by pages."""

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
    """Read on from the first message; ``read`` is ``messages.page`` of one thread, or of one thread and user."""
    after: str | None = BEFORE_THE_FIRST
    while after is not None:
        page = await read(limit=_PAGE_SIZE, after=after)
        yield page
        after = page.after if len(page.items) + len(page.corrupt) == _PAGE_SIZE else None
