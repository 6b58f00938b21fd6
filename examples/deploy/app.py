"""A small application with the probes of Kubernetes."""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, Response

from agent_persistence import Persistence, ThreadRecord
from agent_persistence.integrations.fastapi import get_persistence, install

PersistenceDep = Annotated[Persistence, Depends(get_persistence)]

app = FastAPI()
install(app, Persistence.from_env)


@app.get("/livez", status_code=204)
async def alive() -> None:
    """Answer as long as the event loop runs; a restart of this process mends no other server."""


@app.get("/readyz", status_code=204)
async def ready(persistence: PersistenceDep, response: Response) -> None:
    """Answer 503 without the database. Without the cache the application is slower, and works."""
    if (await persistence.health()).database == "down":
        response.status_code = 503


@app.post("/threads", status_code=201)
async def create_thread(
    name: str, persistence: PersistenceDep, x_user_id: Annotated[str, Header()]
) -> ThreadRecord[str, str]:
    """Create a thread; take the user from your own authentication instead of a header."""
    return await persistence.threads.create(user_id=x_user_id, name=name)
