"""The application: ``uvicorn chat.app:app``, or ``python run.py``, which migrates first."""

from __future__ import annotations

from fastapi import FastAPI

from agent_persistence.integrations.fastapi import install
from agent_persistence.integrations.probes import probes

from . import threads, users
from .database import make_persistence

app = FastAPI(title="Chat")
install(app, make_persistence)
app.include_router(users.router)
app.include_router(threads.router)
probes(app)  # /livez, /readyz and /startupz, for Kubernetes or a load balancer
