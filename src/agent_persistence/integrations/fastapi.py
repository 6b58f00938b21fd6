"""FastAPI: a unit of work for each request, committed before the response is sent.

    app = FastAPI()
    install(app, Persistence.from_env)

    UnitOfWorkDep = Annotated[UnitOfWork, unit_of_work(current_user_id)]

    @app.post("/threads", status_code=201)
    async def create_thread(name: str, uow: UnitOfWorkDep) -> ThreadRecord:
        return await uow.threads.create(name=name)

``Depends(get_persistence)`` injects the ``Persistence``.
"""

import logging
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, Final

from agent_persistence.errors import (
    CheckpointingDisabledError,
    CommitUnknownError,
    ConflictError,
    InvalidInputError,
    MissingExtraError,
    NotFoundError,
    PersistenceError,
    StatementTimeoutError,
    UnavailableError,
    name_for_clients,
)
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.persistence import Persistence

try:
    from fastapi import Depends, FastAPI, WebSocket
    from fastapi.requests import HTTPConnection
    from fastapi.responses import JSONResponse
    from starlette.status import WS_1008_POLICY_VIOLATION, WS_1011_INTERNAL_ERROR
except ImportError as error:
    raise MissingExtraError("fastapi") from error

__all__ = ["get_persistence", "install", "unit_of_work"]

logger = logging.getLogger("agent_persistence")


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
    app.add_exception_handler(PersistenceError, _answer)


async def get_persistence(connection: HTTPConnection) -> Persistence[Any, Any]:
    """Return the ``Persistence`` of the application, as a dependency of an endpoint.

    ``Annotated[Persistence[str, int], Depends(get_persistence)]`` states its id types.
    """
    persistence: Persistence[Any, Any] | None = getattr(connection.app.state, "agent_persistence", None)
    if persistence is None:
        raise RuntimeError(
            "the application has no open Persistence: call install(app, ...), and run the application's lifespan "
            "(TestClient runs it inside a with block, httpx.ASGITransport does not run it)"
        )
    return persistence


def unit_of_work(owner: Callable[..., Any]) -> Any:
    """Return a dependency that opens a unit of work for a request, and commits it before the response is sent.

    A failed commit is an error of the request; an exception in the endpoint rolls back. Create the dependency once and
    share it: two of them in one request are two transactions.

    Args:
        owner: a dependency of the application that returns the id of the requesting user.
    """

    async def begin(
        persistence: Annotated[Persistence[Any, Any], Depends(get_persistence)], user_id: Annotated[Any, Depends(owner)]
    ) -> AsyncIterator[UnitOfWork[Any, Any]]:
        async with persistence.begin(user_id=user_id) as uow:
            yield uow

    # By default FastAPI leaves the block after the response was sent: a failed commit would have answered 200.
    return Depends(begin, scope="function")


@asynccontextmanager
async def _published(app: FastAPI, persistence: Persistence[Any, Any]) -> AsyncIterator[None]:
    app.state.agent_persistence = persistence
    try:
        yield
    finally:
        del app.state.agent_persistence


@dataclass(frozen=True, slots=True)
class _Answer:
    """The HTTP response for a class of errors.

    Attributes:
        detail: ``None`` for the error's text, which names fields and ids; a fixed text for errors whose details are not
            for clients.
    """

    status: HTTPStatus
    detail: str | None = None


_INSTALLED: Final = "agent_persistence_installed"
_ANSWERS: Final[Mapping[type, _Answer]] = {
    InvalidInputError: _Answer(HTTPStatus.UNPROCESSABLE_ENTITY),
    NotFoundError: _Answer(HTTPStatus.NOT_FOUND),
    ConflictError: _Answer(HTTPStatus.CONFLICT),
    CheckpointingDisabledError: _Answer(HTTPStatus.NOT_IMPLEMENTED, "states are not saved here"),
    UnavailableError: _Answer(HTTPStatus.SERVICE_UNAVAILABLE, "the database is not available; try again"),
    StatementTimeoutError: _Answer(HTTPStatus.GATEWAY_TIMEOUT, "the database took too long"),
    # Not 503: clients and proxies retry after it, and this request may have been committed.
    CommitUnknownError: _Answer(
        HTTPStatus.INTERNAL_SERVER_ERROR, "this may have been saved or not; read before you write again"
    ),
    PersistenceError: _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed"),
}


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    """Return the response to a request; close a WebSocket instead."""
    answer = next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    server_error = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if server_error:
        _log(connection, error, answer.status)
    if isinstance(connection, WebSocket):
        code = WS_1011_INTERNAL_ERROR if server_error else WS_1008_POLICY_VIOLATION
        return await connection.close(code, reason=name_for_clients(error))
    return _problem(answer, error)


def _problem(answer: _Answer, error: Exception) -> JSONResponse:
    problem = {
        "title": answer.status.phrase,
        "status": answer.status.value,
        "detail": answer.detail or str(error),
        "error": name_for_clients(error),
    }
    headers = {"Retry-After": "1"} if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(problem, answer.status, headers, media_type="application/problem+json")


def _log(connection: HTTPConnection, error: Exception, status: HTTPStatus) -> None:
    """Log the error without its cause: the driver's text can hold a whole row."""
    frames = "".join(traceback.format_exception(error, chain=False))
    fields = {"event_name": "http.failed", "status": status.value}
    logger.error("%s %r answered %d\n%s", connection.scope["type"], connection.url.path, status, frames, extra=fields)
