"""What tests ask about the connections of a store."""

from __future__ import annotations

import asyncio
from typing import Any

from agent_persistence.persistence import Persistence

_SECONDS_TO_RETURN = 2.0


async def all_are_back(store: Persistence[Any, Any]) -> bool:
    """Whether no connection is in use; those that are kept for the next statement go back within milliseconds."""
    pool: Any = store.engine.pool
    try:
        async with asyncio.timeout(_SECONDS_TO_RETURN):
            while pool.checkedout():  # noqa: ASYNC110 - the pool tells nobody
                await asyncio.sleep(0.001)
    except TimeoutError:
        return False
    return True
