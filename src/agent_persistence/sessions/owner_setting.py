"""Telling PostgreSQL whose rows a transaction may see: what the policies of ``row-level-security`` ask."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import func, select, true
from sqlalchemy.orm import Session

from agent_persistence.records import ANY_USER

_SAID: Final = "agent_persistence.said_owner"


def say_owner(session: Session, owner: Any, *, bind: type[Any]) -> None:
    """Name the owner to the database, unless this transaction has; a round trip each time it is another.

    A savepoint that is rolled back takes the owner back to who it was before, so the owner is named anew wherever the
    innermost savepoint is not the one that it was named in.

    Args:
        bind: the class whose connection is told, for sessions that have several.
    """
    said = session.info.get(_SAID)
    if said == (_innermost(session), owner):
        return
    with session.no_autoflush:  # what waits to be flushed needs the owner too
        session.execute(_settings(owner), bind_arguments={"mapper": bind})
    session.info[_SAID] = (_innermost(session), owner)


def _innermost(session: Session) -> Any:
    return session.get_nested_transaction() or session.get_transaction()


def _settings(owner: Any) -> Any:
    """Set both for the rest of the transaction: a connection goes back to its pool knowing nobody."""
    user_id, any_user = ("", "on") if owner is ANY_USER else (str(owner), "")
    return select(
        set_local("agent_persistence.user_id", user_id),
        set_local("agent_persistence.any_user", any_user),
    )


def set_local(name: str, value: str) -> Any:
    """``SET LOCAL`` as a function, which a pooler lets through and a SELECT can call several times."""
    return func.set_config(name, value, true())
