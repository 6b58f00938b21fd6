"""Units of work of requests: joined to the application's session, or opened for the request."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, get_args

from fastapi import Depends
from fastapi.params import Depends as DependsMarker
from sqlalchemy.ext.asyncio import AsyncSession

from agent_persistence.errors import InvalidInputError
from agent_persistence.integrations.fastapi.application import PersistenceDep
from agent_persistence.operations.unit_of_work import UnitOfWork, end


def joined_unit_of_work(session: Any, owner: Any) -> Any:
    """Return a dependency that joins the application's session: one transaction and one connection a request.

    The application commits, when and where it does so today; the cache follows that commit. A session that commits
    after ``yield`` should be declared with ``Depends(get_session, scope="function")``: by default FastAPI runs that
    part after the response was sent, and a failed commit would have answered 200.

    The unit of work ends with the session: a stream or a background task that still uses it gets a ``DatabaseError``.
    SQLAlchemy would reopen the session, and what was written would never be committed.

    Args:
        session: the application's dependency that yields its ``AsyncSession``: the function, or the alias that
            endpoints use, ``Annotated[AsyncSession, Depends(...)]``. Pass the alias if it has a scope: FastAPI opens
            another session for another scope.
        owner: a dependency that returns the id of the requesting user: the function, or an alias.

    Raises:
        InvalidInputError: (when called) an argument is no dependency.
    """
    given, owning = dependency(session, "session"), dependency(owner, "owner")

    async def join(
        persistence: PersistenceDep, joined: Annotated[AsyncSession, given], user_id: Annotated[Any, owning]
    ) -> AsyncIterator[UnitOfWork[Any, Any]]:
        uow = persistence.bind(joined, user_id=user_id)
        try:
            yield uow
        finally:
            end(uow)

    # It ends with the session, just before it. FastAPI lets no dependency outlast one that it depends on.
    return Depends(join, scope="function" if "function" in {given.scope, owning.scope} else None)


def unit_of_work(owner: Any) -> Any:
    """Return a dependency that opens a unit of work for a request, and commits it before the response is sent.

    It takes a second connection. Where another dependency of the request, such as the one that looks up the user,
    keeps a session of the application open, use ``joined_unit_of_work``: a request that holds one connection while it
    waits for a second one can stop an application, because with as many requests as connections none gets the second.

    A failed commit is an error of the request; an exception in the endpoint rolls back. Create the dependency once and
    share it: two of them in one request are two transactions.

    Args:
        owner: a dependency that returns the id of the requesting user: the function, or the alias that endpoints use,
            ``Annotated[str, Depends(...)]``.

    Raises:
        InvalidInputError: (when called) ``owner`` is no dependency.
    """

    async def begin(
        persistence: PersistenceDep, user_id: Annotated[Any, dependency(owner, "owner")]
    ) -> AsyncIterator[UnitOfWork[Any, Any]]:
        async with persistence.begin(user_id=user_id) as uow:
            yield uow

    # By default FastAPI leaves the block after the response was sent: a failed commit would have answered 200.
    return Depends(begin, scope="function")


def dependency(given: Any, field: str) -> Any:
    """Return the ``Depends`` of an alias, of a function, or of itself.

    Raises:
        InvalidInputError: it is none of these; ``field`` names it.
    """
    for candidate in (given, *get_args(given)[1:]):
        if isinstance(candidate, DependsMarker) and candidate.dependency is not None:
            return candidate
    if not callable(given) or get_args(given):
        raise InvalidInputError(field, "must be a function, or Annotated[..., Depends(function)]")
    return Depends(given)
