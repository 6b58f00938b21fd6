"""Threads as JSON Lines, equal field for field to the lines they were imported from."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from agent_persistence.persistence import Persistence
from agent_persistence.records import AnyUser
from agent_persistence.transfer.conversations.listing import ListedThread, threads_by_age
from agent_persistence.transfer.conversations.reading import fields_of, message_pages


@dataclass(frozen=True, slots=True)
class ExportedConversation:
    """An exported thread.

    Attributes:
        messages: the number of exported messages.
        unreadable: the number of messages left out because their rows cannot be read.
    """

    thread_id: Any
    messages: int
    unreadable: int


async def export_conversations(
    persistence: Persistence[Any, Any], user_id: Any | AnyUser, write: Callable[[bytes], object]
) -> AsyncIterator[ExportedConversation]:
    """Write one line a thread in the order of creation, and yield a report of each.

    A thread that was not imported has its thread id as the conversation's ``id``, and no other fields. One page of its
    messages is in memory at a time.
    """
    async for thread in threads_by_age(persistence, user_id):
        yield await _export(persistence, thread, write)


async def _export(
    persistence: Persistence[Any, Any], thread: ListedThread, write: Callable[[bytes], object]
) -> ExportedConversation:
    messages = unreadable = 0
    fields = fields_of(thread.thread_id, thread.imported, thread.meta)
    write(_json(fields).removesuffix(b"}") + b', "messages": [')
    async for page in message_pages(partial(persistence.messages.page, thread.thread_id, user_id=thread.user_id)):
        for record in page:
            write((b", " if messages else b"") + _json(record.message))
            messages += 1
        unreadable += len(page.corrupt)
    write(b"]}\n")
    return ExportedConversation(thread.thread_id, messages, unreadable)


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
