"""The thread of a request, claimed before anything is sent."""

from inspect import isasyncgenfunction, isgeneratorfunction
from typing import Annotated, Any, Final

from fastapi import Depends, Path

from agent_persistence.errors import InvalidInputError, ThreadExistsError
from agent_persistence.integrations.fastapi.application import PersistenceDep
from agent_persistence.integrations.fastapi.units_of_work import dependency
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.records import ThreadRecord

_OUTLASTS: Final = (
    "ends after the response was sent, so a stream would hold its connection to the end; declare the session with "
    'Depends(get_session, scope="function"), and a dependency of your own with Depends(..., scope="function")'
)


def claim_thread(uow: Any, *, create: bool = False) -> Any:
    """Return a dependency that returns the thread of the path, ``{thread_id}``, before the endpoint runs.

    For endpoints that stream: once the first token is sent, the status is 200 whatever happens. With this dependency,
    somebody else's thread id is refused before the model is called.

    Args:
        uow: the dependency of the request's unit of work, ``Annotated[UnitOfWork, ...]``. It must end before the
            response is sent: with ``joined_unit_of_work``, the session needs ``scope="function"``.
        create: create a thread that does not exist, for clients that choose ids themselves.

    Raises:
        InvalidInputError: (when called) ``uow`` is no dependency, or lasts until the response was sent.
        ThreadNotFoundError: (404) the user has no such thread. Not with ``create``.
        ThreadExistsError: (409, with ``create``) the id belongs to another user's thread.
        InvalidInputError: (422) the id is not of the configured type.
    """
    given = dependency(uow, "uow")
    ends_late = isasyncgenfunction(given.dependency) or isgeneratorfunction(given.dependency)
    if ends_late and given.scope != "function":
        raise InvalidInputError("uow", _OUTLASTS)

    async def claim(
        thread_id: Annotated[str, Path()],
        persistence: PersistenceDep,
        work: Annotated[UnitOfWork[Any, Any], given],
    ) -> ThreadRecord[Any, Any]:
        parsed = persistence.models.id_types.id.parse(thread_id, "thread_id")
        return await (_get_or_create(work, parsed) if create else work.threads.require(parsed))

    return Depends(claim)


async def _get_or_create(uow: UnitOfWork[Any, Any], thread_id: Any) -> ThreadRecord[Any, Any]:
    thread = await uow.threads.get(thread_id)
    if thread is not None:
        return thread
    try:
        return await uow.threads.create(thread_id=thread_id)
    except ThreadExistsError:
        # Another request of this user may have created it since; otherwise it is another user's.
        thread = await uow.threads.get(thread_id)
        if thread is None:
            raise
        return thread
