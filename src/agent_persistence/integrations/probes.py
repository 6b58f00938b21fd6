"""FastAPI: routes for the probes of Kubernetes and of load balancers.

    app = FastAPI()
    install(app, Persistence.from_env)
    probes(app)

adds ``/livez``, ``/readyz`` and ``/startupz``. They answer 200 or 503 at once, however busy the store is.
"""

from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from agent_persistence.errors import MissingExtraError
from agent_persistence.persistence import Persistence

try:
    from fastapi import APIRouter, FastAPI
    from fastapi.responses import JSONResponse
except ImportError as error:
    raise MissingExtraError("fastapi") from error

__all__ = ["probes"]


def probes(
    app: FastAPI, prefix: str = "", *, persistence: Callable[[], Persistence[Any, Any] | None] | None = None
) -> None:
    """Add the routes of the probes to an application.

    Args:
        app: the application.
        prefix: the first part of their paths, such as ``/internal``.
        persistence: returns the store, or ``None`` as long as there is none; the one of ``install`` if left out.
    """
    router = APIRouter(prefix=prefix, include_in_schema=False)

    def store() -> Persistence[Any, Any] | None:
        return getattr(app.state, "agent_persistence", None) if persistence is None else persistence()

    @router.get("/livez")
    async def livez() -> JSONResponse:
        found = store()
        # Before the start and during the shutdown the process is alive, too: the startup probe waits for the one, and
        # a restart would only interrupt the other.
        return _answer(ok=found is None or not found.closed)

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        found = store()
        if found is None:
            return _answer(ok=False)
        readiness = await found.readiness()
        return _answer(ok=readiness.ready, **asdict(readiness))

    @router.get("/startupz")
    async def startupz() -> JSONResponse:
        found = store()
        return _answer(ok=found is not None and found.started)

    app.include_router(router)


def _answer(*, ok: bool, **details: Any) -> JSONResponse:
    status = int(HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)  # a server's log would show the enum's name
    # An answer that a proxy has stored would outlive the outage, or hide it.
    return JSONResponse({"ok": ok, **details}, status, headers={"Cache-Control": "no-store"})
