"""What shows afterwards whether a transaction was committed, when the reply to its COMMIT was lost.

Its number is asked for along with a row that it writes, which costs no round trip. While the server runs on, that
number settles it (``pg_xact_status``). After a crash it does not: a number of which nothing had reached the disk is
given out again, and another transaction's fate would be taken for this one's. Then the row decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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

_PROOF: Final = "agent_persistence.proof"
_TRACES_KEPT: Final = 7
# A standby knows what it was sent so far: what it knows nothing of may be committed all the same.
_STATUS: Final = text(
    "SELECT CASE WHEN pg_is_in_recovery() THEN 'in recovery' ELSE pg_xact_status(CAST(:transaction_id AS xid8)) END"
)
_NOT_OVER: Final = {"in recovery", "in progress"}
# A server that was not shut down properly counts from anew, even if its first process lives on.
_STATISTICS: Final = table("pg_stat_bgwriter", column("stats_reset", DateTime(timezone=True)))
_LAST_CRASH: Final[ColumnElement[datetime]] = select(_STATISTICS.c.stats_reset).scalar_subquery()
_NOT_GIVEN_OUT_YET: Final = "22023"  # invalid_parameter_value: the number is in the future

TRANSACTION_MARKS: Final[tuple[Label[Any], ...]] = (
    cast(func.pg_current_xact_id(), Text).label("transaction_id"),
    func.now().label("transaction_started"),
    func.pg_postmaster_start_time().label("server_started"),
)
"""What a statement that writes returns beside its rows."""


@dataclass(frozen=True, slots=True)
class RowEvidence:
    """A row that a transaction wrote.

    Attributes:
        key: what picks the row.
        time: the column, and its value, that tells the row as it was written; ``None`` if the row was deleted.
    """

    table: Table
    key: Mapping[str, Any]
    time: tuple[str, datetime] | None = None

    def condition(self) -> ColumnElement[bool]:
        """What holds once the transaction is committed."""
        values = dict(self.key) if self.time is None else {**self.key, self.time[0]: self.time[1]}
        columns = self.table.c
        found = exists(select(1).select_from(self.table).where(*(columns[name] == values[name] for name in values)))
        return ~found if self.time is None else found

    def went_with(self, deleted: RowEvidence) -> bool:
        """Whether the row was that one, or belonged to that thread."""
        return all(self.key.get(name) == value for name, value in deleted.key.items())


@dataclass(slots=True)
class CommitEvidence:
    """What a transaction left behind, if it was committed.

    Attributes:
        marks: its number, when it started, and when its server did.
        made: rows that it wrote and did not delete again, the latest of them.
        deleted: a row that it deleted, if it did nothing else.
        wrote_rows: whether it wrote any; those within savepoints may have been undone, and prove nothing.
    """

    transaction: SessionTransaction | None
    marks: Row[Any]
    made: list[RowEvidence] = field(default_factory=list)
    deleted: RowEvidence | None = None
    wrote_rows: bool = False

    def note(self, traces: Sequence[RowEvidence], *, in_savepoint: bool) -> None:
        """Add what one statement wrote."""
        for trace in traces:
            if trace.time is None:
                self.made = [made for made in self.made if not made.went_with(trace)]
        last = traces[-1]
        if last.time is None:
            self.deleted = last
        self.wrote_rows |= last.time is not None or in_savepoint
        if last.time is not None and not in_savepoint:
            self.made = [*self.made[-_TRACES_KEPT:], last]

    def evidence(self) -> ColumnElement[bool] | None:
        """The condition that tells; ``None`` where the rows do not."""
        if self.made:
            return self.made[-1].condition()
        return None if self.wrote_rows or self.deleted is None else self.deleted.condition()


def record_evidence(session: Session, marks: Row[Any], traces: Sequence[RowEvidence]) -> None:
    """Remember what the transaction of this session has just written."""
    proof = evidence_of(session)
    if proof is None:
        proof = session.info[_PROOF] = CommitEvidence(session.get_transaction(), marks)
    proof.note(traces, in_savepoint=session.in_nested_transaction())


def evidence_of(session: Session) -> CommitEvidence | None:
    """Return the proof of the transaction that the session is in, or ``None`` if it is not known to write."""
    proof: CommitEvidence | None = session.info.get(_PROOF)
    return proof if proof is not None and proof.transaction is session.get_transaction() else None


async def was_committed(proof: CommitEvidence, execute: Callable[[Executable], Awaitable[Result[Any]]]) -> bool | None:
    """Ask the database what became of a transaction, through a scope that sees every owner's rows.

    ``None`` if it cannot tell. After a crash a row that somebody deleted or changed since makes it say that nothing
    was committed.

    Raises:
        UnavailableError: it is still under way, or the database cannot be reached.
    """
    marks, evidence = proof.marks, proof.evidence()
    try:
        status = (await execute(_STATUS.bindparams(transaction_id=marks.transaction_id))).scalar_one()
    except DatabaseError as error:
        if error.sqlstate == _NOT_GIVEN_OUT_YET:
            return False  # another server took over before it heard of this transaction
        raise
    if status in _NOT_OVER:
        raise UnavailableError("the transaction is still under way; ask again")
    if status == "aborted":
        return False
    # A statement of its own: the row must be looked for after the transaction is known to be over.
    same = (func.pg_postmaster_start_time() == marks.server_started) & (marks.transaction_started > _LAST_CRASH)
    if (await execute(select(same))).scalar_one():
        return True
    return None if evidence is None else bool((await execute(select(evidence))).scalar_one())
