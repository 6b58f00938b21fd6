"""A SELECT for several callers at once, made of the one for a single caller."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ARRAY, BindParameter, bindparam, column, func, select, true
from sqlalchemy.sql.visitors import iterate, replacement_traverse
from sqlalchemy.types import String, Text

from agent_persistence.database.compiled_statement import CompiledStatement

ORDINAL: Final = "ordinal"
"""The column that tells whose row it is: callers are counted from 1."""


def shared(statement: CompiledStatement) -> CompiledStatement:
    """Return a statement that takes an array for each parameter, an item a caller, and returns ``ORDINAL`` last.

    The rows of a caller are in the order of the statement if it has a LIMIT: PostgreSQL then runs it caller by caller.
    """
    one = statement.statement
    given = {bind.key: bind for bind in iterate(one) if isinstance(bind, BindParameter) and bind.required}
    kinds = {name: _item(bind.type) for name, bind in given.items()}
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in kinds.items()]
    columns = [column(name, kind) for name, kind in kinds.items()]
    callers: Any = func.unnest(*arrays).table_valued(*columns, with_ordinality=ORDINAL)
    callers = callers.render_derived(name="callers")

    def of_caller(element: Any, **_options: Any) -> Any:
        return callers.c[element.key] if isinstance(element, BindParameter) and element.key in given else None

    # LATERAL: each caller's values select rows as the statement does, limits included.
    found: Any = replacement_traverse(one, {}, of_caller)
    found = found.lateral("found")
    return CompiledStatement(select(*found.c, callers.c[ORDINAL]).select_from(callers.join(found, true())))


def _item(kind: Any) -> Any:
    # Not VARCHAR(255), to which PostgreSQL would cut a longer text.
    return Text() if isinstance(kind, String) else kind
