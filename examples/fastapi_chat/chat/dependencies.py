"""Dependencies of endpoints: the store, the current user, a unit of work, a session."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Annotated, Final

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from agent_persistence import Persistence, UnitOfWork
from agent_persistence.integrations.fastapi import get_persistence, unit_of_work

from .models import User

PersistenceDep = Annotated[Persistence[str, int], Depends(get_persistence)]
Credentials = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]

_USER_ID: Final = select(User.id).where(User.token_digest == bindparam("digest"))


def digest(token: str) -> str:
    """Return the digest that the database stores in place of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


async def current_user_id(credentials: Credentials, persistence: PersistenceDep) -> int:
    """Return the user of a token; a placeholder for your application's authentication."""
    return await user_of_token(persistence.engine, credentials.credentials)


async def user_of_token(engine: AsyncEngine, token: str) -> int:
    """Look up a token in one round trip.

    The connection is returned before the request's work begins: if every request held one connection and waited for a
    second one, none would ever get it.
    """
    async with without_transactions(engine).connect() as connection:
        user_id: int | None = await connection.scalar(_USER_ID, {"digest": digest(token)})
    if user_id is None:
        raise HTTPException(401, "unknown token", {"WWW-Authenticate": "Bearer"})
    return user_id


@lru_cache(1)
def without_transactions(engine: AsyncEngine) -> AsyncEngine:
    """Return the engine for single statements: BEGIN and ROLLBACK around one would make three round trips of it."""
    return engine.execution_options(isolation_level="AUTOCOMMIT")


async def get_session(persistence: PersistenceDep) -> AsyncIterator[AsyncSession]:
    """Open a session for the application's tables."""
    async with AsyncSession(persistence.engine, close_resets_only=False) as session, session.begin():
        yield session


CurrentUserId = Annotated[int, Depends(current_user_id)]
UnitOfWorkDep = Annotated[UnitOfWork[str, int], unit_of_work(current_user_id)]
# "function" commits before the response is sent. The default would answer 201 first and commit afterwards.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
