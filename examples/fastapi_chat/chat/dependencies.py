"""What endpoints ask for: who is there, and a unit of work of theirs."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence import Persistence, UnitOfWork
from agent_persistence.integrations.fastapi import get_persistence, unit_of_work

from .models import User

PersistenceDep = Annotated[Persistence[str, int], Depends(get_persistence)]
Credentials = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


def digest(token: str) -> str:
    """Return what the database keeps in place of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


async def current_user_id(credentials: Credentials, persistence: PersistenceDep) -> int:
    """Return whose token this is. A stand-in for the authentication that your application has.

    Its session is its own and over before the unit of work begins: a request that held two connections at once could
    wait for ever for the second one when all requests do.
    """
    async with AsyncSession(persistence.engine) as session:
        user_id = await session.scalar(select(User.id).where(User.token_digest == digest(credentials.credentials)))
    if user_id is None:
        raise HTTPException(401, "unknown token", {"WWW-Authenticate": "Bearer"})
    return user_id


async def get_session(persistence: PersistenceDep) -> AsyncIterator[AsyncSession]:
    """Open a session for tables of the application's own."""
    async with AsyncSession(persistence.engine, close_resets_only=False) as session, session.begin():
        yield session


CurrentUserId = Annotated[int, Depends(current_user_id)]
UnitOfWorkDep = Annotated[UnitOfWork[str, int], unit_of_work(current_user_id)]
# "function" has the commit done before the response is sent. The default would answer 201 first and commit then.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
