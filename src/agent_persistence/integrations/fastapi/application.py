"""The ``Persistence`` of an application: open while it runs, and a dependency of its endpoints."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection

from agent_persistence.errors import InvalidInputError, PersistenceError
from agent_persistence.integrations.fastapi.openapi import with_component
from agent_persistence.integrations.fastapi.problems import answer
from agent_persistence.persistence import Persistence

_INSTALLED: Final = "agent_persistence_installed"


def install(app: FastAPI, make_persistence: Callable[[], Persistence[Any, Any]]) -> None:
    """Open a ``Persistence`` while the application runs, and map its errors to HTTP statuses.

    It opens before the application's lifespan starts and closes after it has ended; in between it is
    ``app.state.agent_persistence``. Errors become ``application/problem+json``; the application's handlers for our
    error classes take precedence.

    Args:
        app: the application that is served. The lifespan of a mounted application does not run.
        make_persistence: a factory, called for every start, so that a test can start the application in several event
            loops: ``Persistence.from_env``, or a function of yours.

    Raises:
        InvalidInputError: ``install`` was called for this application before.
    """
    if getattr(app.state, _INSTALLED, False):
        raise InvalidInputError("app", "has a Persistence already; call install once")
    setattr(app.state, _INSTALLED, True)
    own_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: Any) -> AsyncIterator[Any]:
        async with make_persistence() as persistence, _published(app, persistence), own_lifespan(application) as state:
            yield state

    app.router.lifespan_context = lifespan
    app.add_exception_handler(PersistenceError, answer)
    app.openapi = with_component(app.openapi)  # type: ignore[method-assign]  # as FastAPI's documentation extends it


async def get_persistence(connection: HTTPConnection) -> Persistence[Any, Any]:
    """Return the ``Persistence`` of the application, as a dependency of an endpoint.

    ``Annotated[Persistence[str, int], Depends(get_persistence)]`` states its id types.

    Raises:
        RuntimeError: ``install`` was not called, or the application's lifespan does not run.
    """
    persistence: Persistence[Any, Any] | None = getattr(connection.app.state, "agent_persistence", None)
    if persistence is None:
        raise RuntimeError(
            "the application has no open Persistence: call install(app, ...), and run the application's lifespan "
            "(TestClient runs it inside a with block, httpx.ASGITransport does not run it)"
        )
    return persistence


PersistenceDep = Annotated[Persistence[Any, Any], Depends(get_persistence)]


@asynccontextmanager
async def _published(app: FastAPI, persistence: Persistence[Any, Any]) -> AsyncIterator[None]:
    app.state.agent_persistence = persistence
    try:
        yield
    finally:
        del app.state.agent_persistence
