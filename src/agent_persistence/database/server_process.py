"""The server process behind a connection: ended once its reply was lost, so that nothing it was sent runs later."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import DateTime, Integer, Text, bindparam, case, column, func, select, table

from agent_persistence.database.compiled_statement import CompiledStatement
from agent_persistence.database.pinned_connection import PinnedConnection

_KEY: Final = "agent_persistence.server_process"
_ACTIVITY: Final[Any] = table(
    "pg_stat_activity",
    column("pid", Integer),
    column("backend_start", DateTime(timezone=True)),
    column("state", Text),
)
# Through a pooler this is the process of one moment, and has another number than the driver was told. Where the server
# does not track activities, none is active.
_OWN: Final = CompiledStatement(
    select(_ACTIVITY.c.pid, _ACTIVITY.c.backend_start).where(
        _ACTIVITY.c.pid == func.pg_backend_pid(), _ACTIVITY.c.state == "active"
    )
)
# Only an idle one: a process that waits for a synchronous standby would give up waiting, and its commit would count as
# done although a failover can lose it. By number and start, because numbers are given out again.
_END: Final = CompiledStatement(
    select(
        _ACTIVITY.c.state,
        case((_ACTIVITY.c.state == "idle", func.pg_terminate_backend(_ACTIVITY.c.pid)), else_=False).label("ended"),
    ).where(
        _ACTIVITY.c.pid == bindparam("pid", type_=Integer()),
        _ACTIVITY.c.backend_start == bindparam("started", type_=DateTime(timezone=True)),
    )
)


class ServerProcess(NamedTuple):
    """A process of the server that serves one connection.

    Attributes:
        pid: its number.
        started: when it started, by the server's clock.
    """

    pid: int
    started: datetime


async def process_behind(connection: PinnedConnection) -> ServerProcess | None:
    """Return the process that serves a connection; ``None`` if it cannot be known, as behind a pooler.

    It is asked for once in the life of a connection.

    Raises:
        PersistenceError: the driver's error, translated.
    """
    if _KEY not in connection.info:
        rows = await connection.fetch(_OWN)
        is_direct = bool(rows) and rows[0].pid == connection.server_pid
        connection.info[_KEY] = ServerProcess(rows[0].pid, rows[0].backend_start) if is_direct else None
    process: ServerProcess | None = connection.info[_KEY]
    return process


async def has_ended(connection: PinnedConnection, process: ServerProcess) -> bool:
    """Return whether a process has ended; end it if it is idle, so that it has when this is asked again.

    Args:
        connection: another connection.

    Raises:
        PersistenceError: the driver's error, translated.
    """
    return not await connection.fetch(_END, pid=process.pid, started=process.started)
