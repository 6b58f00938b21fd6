"""The application: ``uvicorn assistant.app:app``, or ``python serve.py``, which migrates first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from agent_persistence import Persistence
from agent_persistence.integrations.fastapi import install
from agent_persistence.integrations.langgraph import PersistenceSaver

from . import runs, threads
from .graph import builder

PAGE = Path(__file__).with_name("page.html")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Compile one graph for all users, when the store is open."""
    saver = PersistenceSaver(app.state.agent_persistence)
    app.state.graph = builder.compile(checkpointer=saver)
    yield


app = FastAPI(title="Assistant", lifespan=lifespan)
install(app, Persistence.from_env)
app.include_router(threads.router)
app.include_router(runs.router)


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """Return the chat's page."""
    return FileResponse(PAGE)
