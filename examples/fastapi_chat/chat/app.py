"""The application: ``uvicorn chat.app:app``, or ``python run.py``, which migrates first."""

from __future__ import annotations

from fastapi import FastAPI, Response

from agent_persistence import Health
from agent_persistence.integrations.fastapi import install

from . import threads, users
from .database import make_persistence
from .dependencies import PersistenceDep

app = FastAPI(title="Chat")
install(app, make_persistence)
app.include_router(users.router)
app.include_router(threads.router)


@app.get("/health", tags=["operations"])
async def health(persistence: PersistenceDep, response: Response) -> Health:
    """Return 503 if the database is down. A cache that is down makes the application slower, not unhealthy."""
    health = await persistence.health()
    if health.database == "down":
        response.status_code = 503
    return health
