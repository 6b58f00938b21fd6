"""Errors as responses: their statuses, and ``application/problem+json`` (RFC 9457)."""

import logging
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse
from starlette.status import WS_1008_POLICY_VIOLATION, WS_1011_INTERNAL_ERROR

from agent_persistence.errors import (
    CheckpointingDisabledError,
    CommitUnknownError,
    ConflictError,
    DatabaseError,
    InvalidInputError,
    NotFoundError,
    PersistenceError,
    SchemaError,
    StatementTimeoutError,
    UnavailableError,
    name_for_clients,
)
from agent_persistence.integrations.fastapi.openapi import MEDIA_TYPE, PROBLEM, REFUSED_BY_FASTAPI

logger = logging.getLogger("agent_persistence")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of this package, for ``responses=`` of an application, a router or an endpoint.

    OpenAPI then lists them as they are sent. A 422 has two shapes: this package's, and FastAPI's for parameters that
    FastAPI refuses itself.

    In an application with ``install``, OpenAPI has the schema once, as the component ``Problem``.

    Args:
        statuses: some of 404, 409, 422, 500, 501, 503 and 504; 404, 409, 422 and 503 if left out.

    Raises:
        InvalidInputError: this package never answers with one of them.
    """
    return {status: _response(status) for status in statuses or _USUAL}


def _response(status: int) -> dict[str, Any]:
    if status not in {found.status for found in _ANSWERS.values()}:
        raise InvalidInputError("statuses", f"{status} is no status of an error of this package")
    content = {MEDIA_TYPE: {"schema": PROBLEM}}
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        content["application/json"] = {"schema": REFUSED_BY_FASTAPI}
    return {"description": HTTPStatus(status).phrase, "content": content}


@dataclass(frozen=True, slots=True)
class _Answer:
    """The HTTP response for a class of errors.

    Attributes:
        detail: ``None`` for the error's text, which names fields and ids; a fixed text for errors whose details are not
            for clients.
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
    # Not 503: clients and proxies retry after it, and this request may have been committed.
    CommitUnknownError: _Answer(
        HTTPStatus.INTERNAL_SERVER_ERROR, "this may have been saved or not; read before you write again"
    ),
    PersistenceError: _Answer(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed"),
}
_USUAL: Final = (404, 409, 422, 503)
# What the server does to every request while it is away, read-only, full or not upgraded. The text says what to do, and
# where in the program it happened says nothing: a traceback a request would bury the rest of the log.
_OF_THE_SERVER: Final = (UnavailableError, StatementTimeoutError, CommitUnknownError, SchemaError)
_FULL: Final = "53"  # the class of sqlstates of a server without disk, memory or connections


def problem_of(error: Exception) -> dict[str, Any]:
    """Return an error as the problem (RFC 9457) that a response would have had, for an event of a stream.

    A stream has sent its status 200 when it fails. Errors of a status from 500 on are logged, as for a response.

    Args:
        error: any error. Of others than this package's, only the name of the class is told.

    Returns:
        ``title``, ``status``, ``detail`` and ``error``, the name of the class.
    """
    found = _answer_to(error)
    if found.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        _log("stream", error, found.status)
    return _problem(found, error)


async def answer(connection: HTTPConnection, error: Exception) -> Any:
    """Return the response to a request; close a WebSocket instead."""
    found = _answer_to(error)
    server_error = found.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    if server_error:
        _log(f"{connection.scope['type']} {connection.url.path!r}", error, found.status)
    if isinstance(connection, WebSocket):
        code = WS_1011_INTERNAL_ERROR if server_error else WS_1008_POLICY_VIOLATION
        return await connection.close(code, reason=name_for_clients(error))
    headers = {"Retry-After": "1"} if found.status == HTTPStatus.SERVICE_UNAVAILABLE else None
    return JSONResponse(_problem(found, error), found.status, headers, media_type=MEDIA_TYPE)


def _answer_to(error: Exception) -> _Answer:
    return next((_ANSWERS[kind] for kind in type(error).__mro__ if kind in _ANSWERS), _ANSWERS[PersistenceError])


def _problem(found: _Answer, error: Exception) -> dict[str, Any]:
    return {
        "title": found.status.phrase,
        "status": found.status.value,
        "detail": found.detail or str(error),
        "error": name_for_clients(error),
    }


def _log(what: str, error: Exception, status: HTTPStatus) -> None:
    """Log the error without its cause: the driver's text can hold a whole row."""
    fields = {"event_name": "http.failed", "status": int(status), "error_type": type(error).__name__}
    if _is_of_the_server(error):
        logger.error("%s answered %d: %s: %s", what, status, type(error).__name__, error, extra=fields)
    else:
        frames = "".join(traceback.format_exception(error, chain=False))
        logger.error("%s answered %d\n%s", what, status, frames, extra=fields)


def _is_of_the_server(error: Exception) -> bool:
    if isinstance(error, DatabaseError):
        return (error.sqlstate or "").startswith(_FULL)
    return isinstance(error, _OF_THE_SERVER)
