"""A small application with the probes of Kubernetes."""

from typing import Annotated

from fastapi import Depends, FastAPI, Header

from agent_persistence import Persistence, ThreadRecord
from agent_persistence.integrations.fastapi import get_persistence, install
from agent_persistence.integrations.probes import probes

PersistenceDep = Annotated[Persistence, Depends(get_persistence)]

app = FastAPI()
install(app, Persistence.from_env)
probes(app)  # /livez, /readyz, /startupz


@app.post("/threads", status_code=201)
async def create_thread(
    name: str, persistence: PersistenceDep, x_user_id: Annotated[str, Header()]
) -> ThreadRecord[str, str]:
    """Create a thread; take the user from your own authentication instead of a header."""
    return await persistence.threads.create(user_id=x_user_id, name=name)
