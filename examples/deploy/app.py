"""A small application with the probes of Kubernetes, metrics for Prometheus and a log."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Header
from prometheus_client import REGISTRY, make_asgi_app

from agent_persistence import Persistence, ThreadRecord
from agent_persistence.integrations.fastapi import get_persistence, install
from agent_persistence.integrations.probes import probes
from agent_persistence.integrations.prometheus import PersistenceCollector

PersistenceDep = Annotated[Persistence, Depends(get_persistence)]

# uvicorn configures its own loggers only.
logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
logging.getLogger("agent_persistence").setLevel(logging.INFO)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Report the metrics of the store, which is open here."""
    collector = PersistenceCollector(app.state.agent_persistence)
    REGISTRY.register(collector)
    yield
    REGISTRY.unregister(collector)


app = FastAPI(lifespan=lifespan)
install(app, Persistence.from_env)
probes(app)  # /livez, /readyz, /startupz
app.mount("/metrics", make_asgi_app())


@app.post("/threads", status_code=201)
async def create_thread(
    name: str, persistence: PersistenceDep, x_user_id: Annotated[str, Header()]
) -> ThreadRecord[str, str]:
    """Create a thread; take the user from your own authentication instead of a header."""
    return await persistence.threads.create(user_id=x_user_id, name=name)
