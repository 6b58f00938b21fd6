"""FastAPI: a unit of work for every request that is committed before its response is sent.

    app = FastAPI()
    install(app, Persistence.from_env)

    UnitOfWorkDep = Annotated[UnitOfWork, unit_of_work(current_user_id)]

    @app.post("/threads", status_code=201)
    async def create_thread(name: str, uow: UnitOfWorkDep) -> ThreadRecord:
        return await uow.threads.create(name=name)

``Depends(get_persistence)`` gives an endpoint the ``Persistence`` itself.
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
    """Open a ``Persistence`` while the application runs, and answer its errors with the right status.

    It opens before the application's own lifespan begins and closes after that has ended; in between it is
    ``app.state.agent_persistence``. Errors become ``application/problem+json``; a handler of the application's own for
    one of our classes goes before ours.

    Args:
        app: the application that is served. The lifespan of a mounted one does not run.
        make_persistence: called once for every run, so that a test may start the application many times, each time in
            another event loop: ``Persistence.from_env``, or a function of yours.
    """
    own_lifespan = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: Any) -> AsyncIterator[Any]:
        async with make_persistence() as persistence, _published(app, persistence), own_lifespan(application) as state:
            yield state

    app.router.lifespan_context = lifespan
    app.add_exception_handler(PersistenceError, _answer)


async def get_persistence(connection: HTTPConnection) -> Persistence[Any, Any]:
    """Give an endpoint the ``Persistence`` of its application.

    ``Annotated[Persistence[str, int], Depends(get_persistence)]`` says which id types it has.
    """
    persistence: Persistence[Any, Any] | None = getattr(connection.app.state, "agent_persistence", None)
    if persistence is None:
        raise RuntimeError(
            "the application has no open Persistence: call install(app, ...), and run the application's lifespan "
            "(TestClient runs it inside a with block, httpx.ASGITransport does not run it)"
        )
    return persistence


def unit_of_work(owner: Callable[..., Any]) -> Any:
    """Make the dependency that opens a unit of work for a request, and commits it before the response is sent.

    A commit that fails is an error of the request; an exception in the endpoint rolls back. Make it once and share it:
    two of them in one request are two transactions.

    Args:
        owner: a dependency of the application's own that returns the id of the user who asks.
    """

    async def begin(
        persistence: Annotated[Persistence[Any, Any], Depends(get_persistence)], user_id: Annotated[Any, Depends(owner)]
    ) -> AsyncIterator[UnitOfWork[Any, Any]]:
        async with persistence.begin(user_id=user_id) as uow:
            yield uow

    # FastAPI's default is to leave the block after the response was sent: a commit that fails would have answered 200.
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
    """How a class of errors is told to a client.

    Attributes:
        detail: ``None`` for the error's own text, which names fields and ids; what is the server's business, not the
            client's, gets a text that says no more than it should.
    """

    status: HTTPStatus
    detail: str | None = None


_ANSWERS: Final[Mapping[type, _Answer]] = {
    InvalidInputError: _Answer(HTTPStatus.UNPROCESSABLE_ENTITY),
    NotFoundError: _Answer(HTTPStatus.NOT_FOUND),
    ConflictError: _Answer(HTTPStatus.CONFLICT),
    CheckpointingDisabledError: _Answer(HTTPStatus.NOT_IMPLEMENTED, "states are not saved here"),
    UnavailableError: _Answer(HTTPStatus.SERVICE_UNAVAILABLE, "the database is not available; try again"),
    StatementTimeoutError: _Answer(HTTPStatus.GATEWAY_TIMEOUT, "the database took too long"),
    # Not 503: clients and proxies repeat what was answered so, and this may be done already.
    CommitUnknownError: _Answer(
        HTTPStatus.INTERNAL_SERVER_ERROR, "this may have been saved or not; read before you write again"
    ),
    PersistenceError: _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed"),
}


async def _answer(connection: HTTPConnection, error: Exception) -> Any:
    """Return the response to a request; a WebSocket is closed instead."""
    answer = next(_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS)
    server_error = answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if server_error:
        _log(connection, error, answer.status)
    if isinstance(connection, WebSocket):
        code = WS_1011_INTERNAL_ERROR if server_error else WS_1008_POLICY_VIOLATION
        return await connection.close(code, reason=type(error).__name__)
    return _problem(answer, error)


def _problem(answer: _Answer, error: Exception) -> JSONResponse:
    problem = {
        "title": answer.status.phrase,
        "status": answer.status.value,
        "detail": answer.detail or str(error),
        "error": type(error).__name__,
    }
    headers = {"Retry-After": "1"} if answer.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(problem, answer.status, headers, media_type="application/problem+json")


def _log(connection: HTTPConnection, error: Exception, status: HTTPStatus) -> None:
    """Write down where it happened, without the cause: the driver's text can hold a whole row."""
    frames = "".join(traceback.format_exception(error, chain=False))
    logger.error("%s %r answered %d\n%s", connection.scope["type"], connection.url.path, status, frames)
