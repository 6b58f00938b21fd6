"""Messages added by COPY, which takes three quarters of the time of an INSERT from some hundred rows on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Integer, Table, bindparam, select

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
    """Read the last ``wanted`` messages of ``thread_id``, which this transaction has locked and added."""
    message = table_of(models.Message)
    made = [message.c[name] for name in ("thread_id", "message_id", "seq", "created_at", "updated_at")]
    return CompiledStatement(
        select(*made, *TRANSACTION_MARKS)
        .where(message.c.thread_id == bindparam("thread_id"))
        .order_by(message.c.seq.desc())
        .limit(bindparam("wanted", type_=Integer()))
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
