"""The owner's name as a setting of the transaction, which the policies of ``row-level-security`` read."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from agent_persistence.records import ANY_USER

_OWNER: Final = "agent_persistence.owner"


def set_owner(session: Session, owner: Any, *, bind: type[Any]) -> None:
    """Set the owner for the rest of the transaction, unless it is set already; costs a round trip.

    A rolled-back savepoint restores the earlier owner, so the owner is set again whenever the innermost savepoint is
    not the one in which it was set.

    Args:
        bind: the mapped class whose connection is told, for sessions with several.
    """
    current = session.info.get(_OWNER)
    if current == (innermost(session), owner):
        return
    with session.no_autoflush:  # what waits to be flushed needs the owner too
        session.execute(_settings(owner), bind_arguments={"mapper": bind})
    session.info[_OWNER] = (innermost(session), owner)


def set_local(name: str, value: str) -> Any:
    """Return ``SET LOCAL`` as a function call: a pooler lets it through, and one SELECT can make several."""
    return func.set_config(name, value, true())


def innermost(session: Session) -> Any:
    """Return the innermost savepoint of a session, or its transaction."""
    return session.get_nested_transaction() or session.get_transaction()


def _settings(owner: Any) -> Any:
    # Both, and for this transaction only: a connection goes back to its pool without an owner.
    user_id, any_user = ("", "on") if owner is ANY_USER else (str(owner), "")
    return select(
        set_local("agent_persistence.user_id", user_id),
        set_local("agent_persistence.any_user", any_user),
    )
