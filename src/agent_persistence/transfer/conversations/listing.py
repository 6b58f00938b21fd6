"""Lists all threads of an owner, or of all owners, in the order of creation."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import literal, select, tuple_

from agent_persistence.database.driver_errors import translated
from agent_persistence.persistence import Persistence
from agent_persistence.records import ANY_USER, AnyUser
from agent_persistence.sessions.scope import Query

_PAGE: Final = 500


class ListedThread(NamedTuple):
    """A thread of the list; ``imported`` are the fields of the line that it was imported from, or ``None``."""

    thread_id: Any
    user_id: Any
    created_at: datetime
    meta: Any
    imported: Any


async def threads_by_age(
    persistence: Persistence[Any, Any], user_id: Any | AnyUser = ANY_USER
) -> AsyncIterator[ListedThread]:
    """Yield all threads, with the archived ones, the oldest first.

    They are read by pages, so that no transaction lasts as long as the whole list. No index serves this order: each
    page scans the table, which suits a command that reads everything anyway.
    """
    last: ListedThread | None = None
    while True:
        statement = _page(persistence, user_id, last)
        async with persistence.begin(user_id=user_id) as uow:
            with translated():
                rows = (await uow.session.execute(statement)).all()
        for row in rows:
            last = ListedThread(*row)
            yield last
        if len(rows) < _PAGE:
            return


def _page(persistence: Persistence[Any, Any], user_id: Any | AnyUser, last: ListedThread | None) -> Query:
    thread, imports = persistence.models.Thread, persistence.models.side_tables.imports
    statement = select(thread.thread_id, thread.user_id, thread.created_at, thread.meta, imports.c.fields)
    statement = statement.outerjoin(imports, imports.c.thread_id == thread.thread_id)
    if user_id is not ANY_USER:
        statement = statement.where(thread.user_id == user_id)
    if last is not None:
        place = (
            literal(last.created_at, thread.created_at.type),
            literal(last.thread_id, thread.thread_id.type),
        )
        statement = statement.where(tuple_(thread.created_at, thread.thread_id) > tuple_(*place))
    return statement.order_by(thread.created_at, thread.thread_id).limit(_PAGE)
