"""Optional policies by which PostgreSQL shows rows to their owner only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from agent_persistence.migrate.optional.definition import OptionalObject

# A setting that was local to a transaction is '' after it, not null.
_OWNED: Final = (
    "user_id = nullif(current_setting('agent_persistence.user_id', true), '')::{user_id} "
    "OR current_setting('agent_persistence.any_user', true) = 'on'"
)
# The policy of threads holds in here as well. The price: the last 20 messages of a thread take 450 us instead of 10.
_OF_A_VISIBLE_THREAD: Final = "EXISTS (SELECT FROM threads WHERE threads.thread_id = %s.thread_id)"
_OF_A_VISIBLE_STREAM: Final = (
    "EXISTS (SELECT FROM state_streams AS stream WHERE stream.stream_id = state_chunks.stream_id)"
)
ITEM_VECTORS: Final = "opt_item_vectors"
"""A table that exists only where the optional object ``vectors`` was added."""

_POLICIES: Final = {
    "threads": _OWNED,
    "states": _OF_A_VISIBLE_THREAD % "states",
    "messages": _OF_A_VISIBLE_THREAD % "messages",
    "graph_checkpoints": _OF_A_VISIBLE_THREAD % "graph_checkpoints",
    "graph_values": _OF_A_VISIBLE_THREAD % "graph_values",
    "tool_results": _OF_A_VISIBLE_THREAD % "tool_results",
    "state_streams": _OF_A_VISIBLE_THREAD % "state_streams",
    "state_chunks": _OF_A_VISIBLE_STREAM,
    "conversation_imports": _OF_A_VISIBLE_THREAD % "conversation_imports",
    "items": _OWNED,
}

_UNPROTECTED: Final = text(
    """
    SELECT relname FROM pg_class
    WHERE relnamespace = to_regnamespace(quote_ident(:schema)) AND relname = ANY (:tables) AND NOT (
        relrowsecurity AND relforcerowsecurity
        AND EXISTS (SELECT FROM pg_policy WHERE polrelid = pg_class.oid AND polname = 'opt_owner')
    )
    ORDER BY relname
    """
)


def unprotected_tables(connection: Connection, schema: str) -> list[str]:
    """Return tables without their policy: those that a later version added."""
    return list(connection.scalars(_UNPROTECTED, {"schema": schema, "tables": [*_POLICIES, ITEM_VECTORS]}))


def protect(table: str, *, where: str) -> str:
    """Return the statement that protects a table of an owner's rows if a condition holds."""
    return (
        f"DO $$ BEGIN IF {where} THEN DROP POLICY IF EXISTS opt_owner ON {table}; "
        f"CREATE POLICY opt_owner ON {table} USING ({_OWNED}); "
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY; END IF; END $$"
    )


def _add() -> Iterator[str]:
    for table, visible in _POLICIES.items():
        yield f"DROP POLICY IF EXISTS opt_owner ON {table}"
        yield f"CREATE POLICY opt_owner ON {table} USING ({visible})"
        # FORCE: without it the role that owns the table sees all rows.
        yield f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY"
    yield protect(ITEM_VECTORS, where=f"to_regclass('{ITEM_VECTORS}') IS NOT NULL")


def _remove() -> Iterator[str]:
    for table in (*_POLICIES, ITEM_VECTORS):
        yield f"DROP POLICY IF EXISTS opt_owner ON {table}"
        # A table on which the host has policies of other names keeps row-level security.
        yield (
            f"DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = to_regclass('{table}')) THEN "
            f"ALTER TABLE IF EXISTS {table} DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY; END IF; END $$"
        )


ROW_LEVEL_SECURITY: Final = OptionalObject(
    name="row-level-security",
    summary="policies that show an owner's rows to that owner only; needs PERSISTENCE_ROW_LEVEL_SECURITY=true",
    creates="opt_owner",
    add=tuple(_add()),
    remove=tuple(_remove()),
)
