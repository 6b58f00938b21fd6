"""Signing up: a row of the application and a thread of agent-persistence, in one transaction."""

from __future__ import annotations

import secrets

from fastapi import APIRouter

from .bodies import NewUser, SignedUp
from .dependencies import PersistenceDep, SessionDep, digest
from .models import User

router = APIRouter(tags=["users"])


@router.post("/users", status_code=201)
async def sign_up(new: NewUser, session: SessionDep, persistence: PersistenceDep) -> SignedUp:
    """Create a user and a first thread, both or neither."""
    token = secrets.token_urlsafe()
    user = User(name=new.name, token_digest=digest(token))
    session.add(user)
    await session.flush()
    thread = await persistence.bind(session, user_id=user.id).threads.create(name="Welcome")
    return SignedUp(user_id=user.id, token=token, thread_id=thread.thread_id)
