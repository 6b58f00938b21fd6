"""Sessions whose commits, and whose writes through the ORM, the cache hears of."""

from __future__ import annotations

from sqlalchemy.orm import Session

from agent_persistence.sessions.commit_hooks import CacheWatch, listen_to_commits, start_watch
from agent_persistence.sessions.orm_writes import listen_to_statements


class WatchedSession(Session):
    """A session whose class is listened to: listeners on each one would cost ten microseconds apiece."""


listen_to_commits(WatchedSession)
listen_to_statements(WatchedSession)


def watch_session(session: Session, watch: CacheWatch) -> None:
    """Have the hooks called around the commits of this session, from now on.

    Raises:
        InvalidInputError: somebody else's hooks are called already.
    """
    if start_watch(session, watch) and not isinstance(session, WatchedSession):
        listen_to_commits(session)
        listen_to_statements(session)
