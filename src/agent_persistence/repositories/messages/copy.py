"""Messages added by COPY, which takes three quarters of the time of an INSERT from some hundred rows on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import ARRAY, Integer, Table, bindparam, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from agent_persistence.database.compiled_statement import MODELS_AT_ONCE, CompiledStatement
from agent_persistence.encoding.exact_json import EncodedJSON
from agent_persistence.models import Models
from agent_persistence.models.base import table_of
from agent_persistence.repositories.messages.prepared import EMPTY_OBJECT, PreparedMessage
from agent_persistence.repositories.messages.statements import columns_of_messages
from agent_persistence.sessions.commit_evidence import TRANSACTION_MARKS
from agent_persistence.sessions.scope import Scope

_DEFAULTS: Final[dict[str, Any]] = {
    "tool_calls": None,
    "tool_call_id": None,
    "reasoning": None,
    "aside": None,
    "extra": None,
    "total_tokens": 0,
    "usages": EMPTY_OBJECT,
    "meta": EMPTY_OBJECT,
}
"""The columns' defaults: a column that holds nothing else is left out."""


async def copy_messages(scope: Scope[Any, Any], messages: Sequence[tuple[Any, Any, PreparedMessage[Any]]]) -> None:
    """Add messages to locked threads, in this order; those whose ids the database makes come last."""
    for has_id in (True, False):
        alike = [found for found in messages if (found[2].message_id is not None) is has_id]
        await copy_rows(scope, scope.messages, _columns(alike, has_id=has_id))


async def copy_rows(scope: Scope[Any, Any], table: Table, columns: dict[str, list[Any]]) -> None:
    """Add rows to a table, given as lists by column."""
    if columns["thread_id"]:
        texts = [
            # COPY bypasses SQLAlchemy's types, and its codec for JSONB on the connection takes text.
            [value.utf8.decode() if type(value) is EncodedJSON else value for value in values]
            for values in columns.values()
        ]
        await scope.copy(table, list(columns), zip(*texts, strict=True))


@lru_cache(MODELS_AT_ONCE)
def last_messages(models: Models[Any, Any]) -> CompiledStatement:
    """Read what the database gave to the last ``wanted`` messages of ``thread_id``, added by this transaction.

    One row: their positions as an array, the id of the first and the position of the last of them, and their time, that
    of the transaction. A row for each message lost: it took a quarter of the client's time.
    """
    message = table_of(models.Message).c
    last = (
        select(message.thread_id, message.message_id, message.seq, message.created_at, message.updated_at)
        .where(message.thread_id == bindparam("thread_id"))
        .order_by(message.seq.desc())
        .limit(bindparam("wanted", type_=Integer()))
        .subquery("last")
        .c
    )
    first_id = func.array_agg(aggregate_order_by(last.message_id, last.seq), type_=ARRAY(last.message_id.type))[1]
    return CompiledStatement(
        select(
            last.thread_id,
            first_id.label("first_id"),
            func.array_agg(aggregate_order_by(last.seq, last.seq)).label("positions"),
            func.max(last.seq).label("seq"),
            func.max(last.created_at).label("created_at"),
            func.max(last.updated_at).label("updated_at"),
            *TRANSACTION_MARKS,
        ).group_by(last.thread_id)
    )


def _columns(messages: Sequence[tuple[Any, Any, PreparedMessage[Any]]], *, has_id: bool) -> dict[str, list[Any]]:
    """Return the columns of messages, without those that hold only defaults."""
    columns = columns_of_messages(messages, with_ids=has_id)
    del columns["owners"]
    columns["thread_id"] = columns.pop("thread_ids")
    return {
        name: values
        for name, values in columns.items()
        if name not in _DEFAULTS or values.count(_DEFAULTS[name]) < len(values)
    }
