"""Serve one application as one process: ``python -m benchmarks.web.serve MODULE:APP SOCKET``."""

from __future__ import annotations

import sys
import time
from importlib import import_module
from pathlib import Path

import uvicorn

from benchmarks import writes

EXAMPLE = Path(__file__).parents[2] / "examples" / "fastapi_chat"


async def cost() -> list[float]:
    """Return the processor time of this process, and its writes to PostgreSQL and to Redis."""
    return [time.process_time(), *writes.counted_writes()]


def main(place: str, socket: str) -> None:
    """Migrate as the example does, and serve until it is stopped."""
    sys.path.insert(0, str(EXAMPLE))
    import_module("run").upgrade()
    writes.start_counting()
    module, name = place.split(":")
    app = getattr(import_module(module), name)
    app.get("/cost")(cost)
    uvicorn.run(app, uds=socket, loop="asyncio", timeout_keep_alive=3600, access_log=False, log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
