"""Evidence that a transaction was committed, for when the reply to its COMMIT was lost.

The number of the transaction is returned with a row that it writes, which costs no round trip. While the server keeps
running, ``pg_xact_status`` of that number settles it. After a crash it does not: a number of which nothing reached the
disk is given out again, and another transaction's status would be read. Then the row decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Executable,
    Label,
    Result,
    Row,
    Table,
    Text,
    cast,
    column,
    exists,
    func,
    select,
    table,
    text,
)
from sqlalchemy.orm import Session, SessionTransaction

from agent_persistence.errors import DatabaseError, UnavailableError

_EVIDENCE: Final = "agent_persistence.commit_evidence"
_ROWS_KEPT: Final = 7
# A standby knows what it has received so far: a transaction that it does not know may be committed all the same.
_STATUS: Final = text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN 'in recovery' ELSE pg_xact_status(CAST(:transaction_id AS xid8)) END"
)
_NOT_OVER: Final = {"in recovery", "in progress"}
# Crash recovery resets the statistics, even if the first process of the server lives on.
_STATISTICS: Final = table("pg_stat_bgwriter", column("stats_reset", DateTime(timezone=True)))
_LAST_CRASH: Final[ColumnElement[datetime]] = select(_STATISTICS.c.stats_reset).scalar_subquery()
_NOT_ASSIGNED_YET: Final = "22023"  # invalid_parameter_value: the number is in the future

TRANSACTION_MARKS: Final[tuple[Label[Any], ...]] = (
    cast(func.pg_current_xact_id(), Text).label("transaction_id"),
    func.now().label("transaction_started"),
    func.pg_postmaster_start_time().label("server_started"),
)
"""Columns that every writing statement returns, beside those of its rows."""


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """A row that a transaction wrote.

    Attributes:
        key: selects the row.
        time: a column and its value that tell the row as it was written from later versions of it; ``None`` if the row
            was deleted.
    """

    table: Table
    key: Mapping[str, Any]
    time: tuple[str, datetime] | None = None

    def condition(self) -> ColumnElement[bool]:
        """Return the condition that holds once the transaction is committed."""
        values = dict(self.key) if self.time is None else {**self.key, self.time[0]: self.time[1]}
        columns = self.table.c
        found = exists(select(1).select_from(self.table).where(*(columns[name] == values[name] for name in values)))
        return ~found if self.time is None else found

    def went_with(self, deleted: RowEvidence) -> bool:
        """Whether the deleted row is this one, or the thread of this one."""
        return all(self.key.get(name) == value for name, value in deleted.key.items())


def row_evidence(table: Table, *key: str, time: str | None = None) -> Callable[[Any], RowEvidence]:
    """Return the function that makes evidence of a returned row.

    Args:
        key: the columns that select the row.
        time: the column that tells the row as it was written; ``None`` where rows are deleted.
    """
    return partial(_row_evidence, table, key, time)


def _row_evidence(table: Table, key: Sequence[str], time: str | None, row: Any) -> RowEvidence:
    values = {name: getattr(row, name) for name in key}
    return RowEvidence(table, values, None if time is None else (time, getattr(row, time)))


@dataclass(slots=True)
class CommitEvidence:
    """Evidence by which the database can tell afterwards whether a transaction was committed.

    Attributes:
        marks: the transaction's number, its start, and the server's start.
        made: the latest rows that it wrote and did not delete again.
        deleted: a row that it deleted; counts only if it wrote none.
        wrote_rows: whether it wrote any. Rows within savepoints may have been undone, so they prove nothing.
    """

    transaction: SessionTransaction | None
    marks: Row[Any]
    made: list[RowEvidence] = field(default_factory=list)
    deleted: RowEvidence | None = None
    wrote_rows: bool = False

    def note(self, rows: Sequence[RowEvidence], *, in_savepoint: bool) -> None:
        """Add the rows that one statement wrote; if they prove nothing, none, and only the number counts."""
        for row in rows:
            if row.time is None:
                # A row that the transaction deleted again is missing after the commit too, and would prove a rollback
                # that did not happen.
                self.made = [made for made in self.made if not made.went_with(row)]
        if not rows:
            return
        last = rows[-1]
        if last.time is None:
            self.deleted = last
        self.wrote_rows |= last.time is not None or in_savepoint
        # A few rows, not only the last one: a later DELETE may take the last one with it.
        if last.time is not None and not in_savepoint:
            self.made = [*self.made[-_ROWS_KEPT:], last]

    def condition(self) -> ColumnElement[bool] | None:
        """Return the condition that holds if it was committed; ``None`` where the rows do not tell."""
        if self.made:
            return self.made[-1].condition()
        return None if self.wrote_rows or self.deleted is None else self.deleted.condition()


def record_evidence(session: Session, marks: Row[Any], rows: Sequence[RowEvidence]) -> None:
    """Record the rows that the transaction of this session has just written."""
    evidence = evidence_of(session)
    if evidence is None:
        evidence = session.info[_EVIDENCE] = CommitEvidence(session.get_transaction(), marks)
    evidence.note(rows, in_savepoint=session.in_nested_transaction())


def adopt_evidence(session: Session, evidence: CommitEvidence) -> None:
    """Let a session go on with the transaction that this evidence is of."""
    evidence.transaction = session.get_transaction()
    session.info[_EVIDENCE] = evidence


def evidence_of(session: Session) -> CommitEvidence | None:
    """Return the evidence of the session's transaction; ``None`` if no write of it was recorded."""
    evidence: CommitEvidence | None = session.info.get(_EVIDENCE)
    return evidence if evidence is not None and evidence.transaction is session.get_transaction() else None


async def was_committed(
    evidence: CommitEvidence, execute: Callable[[Executable], Awaitable[Result[Any]]]
) -> bool | None:
    """Ask the database whether a transaction was committed.

    After a crash, a row that another transaction has changed or deleted since counts as not committed.

    Args:
        execute: runs a statement that sees the rows of every owner.

    Returns:
        ``None`` if the database cannot tell.

    Raises:
        UnavailableError: the transaction is still in progress, or the database cannot be reached.
    """
    marks, condition = evidence.marks, evidence.condition()
    try:
        status = (await execute(_STATUS.bindparams(transaction_id=marks.transaction_id))).scalar_one()
    except DatabaseError as error:
        if error.sqlstate == _NOT_ASSIGNED_YET:
            return False  # a promoted standby that never received this transaction
        raise
    if status in _NOT_OVER:
        raise UnavailableError("the transaction is still in progress; ask again")
    if status == "aborted":
        return False
    # A second statement: the row must be looked for after the transaction is known to be over.
    same = (func.pg_postmaster_start_time() == marks.server_started) & (marks.transaction_started > _LAST_CRASH)
    if (await execute(select(same))).scalar_one():
        return True
    return None if condition is None else bool((await execute(select(condition))).scalar_one())
