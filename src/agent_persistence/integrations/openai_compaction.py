"""Compactions of the OpenAI Agents SDK: the end of a session is replaced if it is still as the model has read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from agent_persistence.errors import ThreadNotFoundError
from agent_persistence.forms.form import Found, read
from agent_persistence.forms.openai import OpenAIForm
from agent_persistence.integrations.shared_messages import last_items
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import NewMessage
from agent_persistence.repositories.messages.repository import BEFORE_THE_FIRST

_FORM: Final = OpenAIForm()
_PAGE: Final = 100


def begins_a_row(found: Sequence[Found], place: int) -> bool:
    """Whether the items from this place on begin with a message of their own, of which no earlier item is a part."""
    return place == 0 or found[place - 1].records[-1].message_id != found[place].records[0].message_id


async def replace_all(uow: UnitOfWork[Any, Any], *, thread_id: Any, messages: Sequence[NewMessage[Any]]) -> None:
    """Replace all messages of a thread.

    Raises:
        ThreadNotFoundError: the thread does not exist.
    """
    await uow.messages.clear(thread_id)
    await uow.messages.append_many(thread_id, messages)


async def replace_end(
    uow: UnitOfWork[Any, Any],
    *,
    thread_id: Any,
    end: Sequence[Found],
    messages: Sequence[NewMessage[Any]],
    is_expired: Callable[[Any], bool] | None,
) -> bool:
    """Replace the last items of a thread, unless somebody has written to it since they were read.

    Args:
        uow: of the owner.
        thread_id: the thread.
        end: its last items, at least one, as they were read.
        messages: what takes their place.
        is_expired: whether an item is no longer shown; the first items that are not are deleted as well.

    Returns:
        Whether they were replaced.
    """
    try:
        await uow.threads.lock(thread_id)
    except ThreadNotFoundError:
        return False
    now = await last_items(_FORM, partial(uow.messages.page, thread_id), len(end))
    if [one.records for one in now] != [one.records for one in end]:
        return False
    for message_id in {row.message_id for one in end for row in one.records}:
        await uow.messages.delete(thread_id, message_id)
    if is_expired is not None:
        await _delete_expired(uow, thread_id, is_expired)
    await uow.messages.append_many(thread_id, messages)
    return True


async def _delete_expired(uow: UnitOfWork[Any, Any], thread_id: Any, is_expired: Callable[[Any], bool]) -> None:
    after = BEFORE_THE_FIRST
    while True:
        page = await uow.messages.page(thread_id, limit=_PAGE, after=after, asides=_FORM.key)
        for one in read(_FORM, page.items):
            if page.corrupt or not (one.is_own and is_expired(one.item)):
                return
            await uow.messages.delete(thread_id, one.records[0].message_id)
        if page.after is None or len(page) < _PAGE:
            return
        after = page.after
