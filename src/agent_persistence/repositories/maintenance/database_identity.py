"""The identity of a database, by which a shared cache keeps the states of databases apart."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import Any, Final

import asyncpg
from sqlalchemy import text

from agent_persistence.errors import DatabaseError
from agent_persistence.sessions.session_scope import SessionScope

_TABLE: Final = text(
    "SELECT pg_database.oid AS database, CAST(to_regclass(:threads) AS oid) AS threads "
    "FROM pg_database WHERE datname = current_database()"
)
_CLUSTER: Final = text("SELECT system_identifier FROM pg_control_system()")
_OF_CLUSTER: Final = "(SELECT system_identifier FROM pg_control_system())"
_ALL: Final = (
    f"SELECT {_OF_CLUSTER} AS cluster, pg_database.oid AS database, CAST(to_regclass($1) AS oid) AS threads "  # noqa: S608  # a constant
    "FROM pg_database WHERE datname = current_database()"
)
_NOT_ALLOWED: Final = "42501"  # insufficient_privilege


async def identity_of(scope: SessionScope[Any, Any]) -> str | None:
    """Return twelve characters that identify the table of threads in this database; ``None`` if there is no table.

    A standby has the identity of its primary. A restored dump, another schema and a recreated table have others.
    """
    threads = scope.session.get_bind(scope.models.Thread).dialect.identifier_preparer.format_table(scope.threads)
    row = (await scope.execute(_TABLE.bindparams(threads=threads))).one()
    return None if row.threads is None else _identity(await _cluster(scope), row.database, row.threads)


async def identity_behind(connection: asyncpg.Connection, threads: str) -> str | None:
    """Return what ``identity_of`` does for a new connection that is in no transaction, in one statement.

    Args:
        connection: the driver's connection; not of a transaction pooler.
        threads: the name of the table, quoted.
    """
    row = None
    for query in (_ALL, _ALL.replace(_OF_CLUSTER, "0")):
        # Refused twice, it is the schema that this role may not use: no connection fails for that, and check names it.
        with suppress(asyncpg.InsufficientPrivilegeError):
            row = await connection.fetchrow(query, threads)
            break
    return None if row is None or row["threads"] is None else _identity(row["cluster"], row["database"], row["threads"])


def _identity(cluster: int, database: int, threads: int) -> str:
    # Object ids, not names: a database that was dropped and made again has the same name and other states.
    return hashlib.sha256(f"{cluster}:{database}:{threads}".encode()).hexdigest()[:12]


async def _cluster(scope: SessionScope[Any, Any]) -> int:
    """Return the system identifier of the database cluster; 0 where the role may not read it."""
    try:
        return int((await scope.execute(_CLUSTER)).scalar_one())
    except DatabaseError as error:
        if error.sqlstate != _NOT_ALLOWED:
            raise
        return 0
