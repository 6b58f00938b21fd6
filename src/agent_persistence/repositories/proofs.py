"""What shows afterwards whether a transaction was committed, when the reply to its COMMIT was lost.

Its number is asked for along with a row that it writes, which costs no round trip. While the server runs on, that
number settles it (``pg_xact_status``). After a crash it does not: a number of which nothing had reached the disk is
given out again, and another transaction's fate would be taken for this one's. Then the row decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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
    and_,
    cast,
    column,
    exists,
    func,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.orm import Session, SessionTransaction

from agent_persistence.errors import DatabaseError, UnavailableError

_PROOF: Final = "agent_persistence.proof"
_STATUS: Final = text("SELECT pg_xact_status(CAST(:transaction_id AS xid8))")
# A server that was not shut down properly counts from anew, even if its first process lives on.
_STATISTICS: Final = table("pg_stat_bgwriter", column("stats_reset", DateTime(timezone=True)))
_LAST_CRASH: Final[ColumnElement[datetime]] = select(_STATISTICS.c.stats_reset).scalar_subquery()
_NOT_GIVEN_OUT_YET: Final = "22023"  # invalid_parameter_value: the number is in the future

MARKS: Final[tuple[Label[Any], ...]] = (
    cast(func.pg_current_xact_id(), Text).label("transaction_id"),
    func.now().label("transaction_started"),
    func.pg_postmaster_start_time().label("server_started"),
)
"""What a statement that writes returns beside its rows."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What a transaction left behind, if it was committed.

    Attributes:
        marks: its number, when it started, and when its server did.
        evidence: a condition that holds once it is committed, at least for a while.
    """

    transaction: SessionTransaction | None
    marks: Row[Any]
    evidence: ColumnElement[bool]


def note_proof(session: Session, marks: Row[Any], evidence: ColumnElement[bool]) -> None:
    """Remember what the transaction of this session has just written; the last of several writes will do."""
    session.info[_PROOF] = Proof(session.get_transaction(), marks, evidence)


def proof_of(session: Session) -> Proof | None:
    """Return the proof of the transaction that the session is in, or ``None`` if it is not known to write."""
    proof: Proof | None = session.info.get(_PROOF)
    return proof if proof is not None and proof.transaction is session.get_transaction() else None


async def was_committed(proof: Proof, execute: Callable[[Executable], Awaitable[Result[Any]]]) -> bool:
    """Ask the database what became of a transaction, through a scope that sees every owner's rows.

    Raises:
        UnavailableError: it is still under way, or the database cannot be reached.
    """
    marks = proof.marks
    try:
        status = (await execute(_STATUS.bindparams(transaction_id=marks.transaction_id))).scalar_one()
    except DatabaseError as error:
        if error.sqlstate == _NOT_GIVEN_OUT_YET:
            return False  # another server took over before it heard of this transaction
        raise
    if status == "in progress":
        raise UnavailableError("the transaction is still under way; ask again")
    if status == "aborted":
        return False
    # A statement of its own: the row must be looked for after the transaction is known to be over.
    same = (func.pg_postmaster_start_time() == marks.server_started) & (marks.transaction_started > _LAST_CRASH)
    return bool((await execute(select(or_(same, proof.evidence)))).scalar_one())


def present(table: Table, **values: Any) -> ColumnElement[bool]:
    """The condition that a row with these values is in the table."""
    return exists(select(1).select_from(table).where(and_(*(table.c[name] == value for name, value in values.items()))))


def absent(table: Table, **values: Any) -> ColumnElement[bool]:
    """The condition that none is."""
    return ~present(table, **values)
