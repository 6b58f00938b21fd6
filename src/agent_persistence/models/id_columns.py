"""Types for a host's own columns that hold our ids.

A column of another type or collation can still refer to a thread, but PostgreSQL will not use the host's index on it
to find the rows of one.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.types import TypeEngine

from agent_persistence.ids import IdT, IdTypes, UserIdT


def thread_id_type(id_types: IdTypes[IdT, Any]) -> TypeEngine[IdT]:
    """Make the type of a column that refers to a thread or a message."""
    return id_types.id.sql_type()


def user_id_type(id_types: IdTypes[Any, UserIdT]) -> TypeEngine[UserIdT]:
    """Make the type of a column that holds the id of a user, as ``threads.user_id`` does."""
    return id_types.user.sql_type()
