"""Statements on the chunks of streamed states, compiled once for each set of models."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import Integer, bindparam, select, true

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.models import Models
from agent_persistence.models.base import table_of


@lru_cache(MODELS_AT_ONCE)
def read_chunk(models: Models[Any, Any], *, of_any_user: bool) -> CompiledStatement:
    """Read the chunk ``place`` of the state ``version`` of the thread ``thread_id`` of ``owner``.

    Returns a row for a state that exists, with ``data`` if the chunk does.
    """
    state, thread, chunks = table_of(models.State), table_of(models.Thread), models.side_tables.streamed.chunks
    is_chunk = (chunks.c.stream_id == state.c.stream_id) & (chunks.c.place == bindparam("place", type_=Integer()))
    return CompiledStatement(
        select(chunks.c.data)
        .select_from(state.join(thread, thread.c.thread_id == state.c.thread_id).outerjoin(chunks, is_chunk))
        .where(
            state.c.thread_id == bindparam("thread_id"),
            state.c.state_id == bindparam("version"),
            true() if of_any_user else thread.c.user_id == bindparam("owner"),
        )
    )
