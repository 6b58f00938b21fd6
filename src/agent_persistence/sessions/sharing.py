"""Whether anybody but our repositories works in a session."""

from __future__ import annotations

from typing import Final

from sqlalchemy.orm import Session

_SHARED: Final = "agent_persistence.shared"


def share(session: Session) -> None:
    """Say that the host works in this session too: by SQL, by savepoints, by whatever a session can do."""
    session.info[_SHARED] = True


def is_shared(session: Session) -> bool:
    """Whether the host may have done something in this session that we know nothing of.

    Then the values that we wrote in it may be undone behind our back and are not passed on to the cache; and there may
    be more in a transaction than what proves its commit.
    """
    return _SHARED in session.info
