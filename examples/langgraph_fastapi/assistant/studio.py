"""The checkpointer of ``langgraph dev``, which runs the same graph in LangGraph's development server."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent_persistence import Persistence
from agent_persistence.integrations.langgraph import PersistenceSaver


@asynccontextmanager
async def checkpointer() -> AsyncIterator[PersistenceSaver]:
    """Open the application's database, with one owner for the server's threads.

    ``STUDIO_USER_ID`` names a user of the application, whose threads can then be looked at and continued in Studio.
    """
    async with Persistence.from_env() as persistence:
        yield PersistenceSaver(persistence, user_id=os.environ.get("STUDIO_USER_ID", "langgraph-server"))
