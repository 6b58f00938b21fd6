"""Filters and cursors of lists, as query parameters of endpoints."""

from typing import Annotated, TypedDict

from fastapi import Depends, Query

_Limit = Annotated[int, Query(ge=1, le=1000, description="how many items at most")]
_Before = Annotated[str | None, Query(description="`before` of another page: list the items before it")]
_After = Annotated[str | None, Query(description="`after` of another page: list the items that follow it")]
_Search = Annotated[str | None, Query(max_length=255, description="text that must be contained, in any case")]
_Archived = Annotated[bool, Query(description="list the archived threads instead of the others")]


class ThreadQuery(TypedDict):
    """Arguments of ``threads.page`` that a client chooses."""

    limit: int
    after: str | None
    search: str | None
    archived: bool


class MessageQuery(TypedDict):
    """Arguments of ``messages.page`` that a client chooses."""

    limit: int
    before: str | None
    after: str | None
    search: str | None


def _threads(
    *, limit: _Limit = 20, after: _After = None, search: _Search = None, archived: _Archived = False
) -> ThreadQuery:
    return ThreadQuery(limit=limit, after=after, search=search, archived=archived)


def _messages(
    *, limit: _Limit = 50, before: _Before = None, after: _After = None, search: _Search = None
) -> MessageQuery:
    return MessageQuery(limit=limit, before=before, after=after, search=search)


ThreadFilters = Annotated[ThreadQuery, Depends(_threads)]
"""Query parameters ``limit``, ``after``, ``search`` and ``archived``: ``uow.threads.page(**filters)``."""

MessageFilters = Annotated[MessageQuery, Depends(_messages)]
"""Query parameters ``limit``, ``before``, ``after`` and ``search``: ``uow.messages.page(thread_id, **filters)``."""
