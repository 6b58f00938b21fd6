"""An agent that resumes where it stopped, on any backend: python resume.py memory|redis|postgresql|dynamodb."""

import asyncio
import sys
from importlib import import_module

from agent_persistence import Checkpointer, StateConflictError

BACKENDS = {
    "memory": "MemoryCheckpointer",
    "redis": "RedisCheckpointer",
    "postgresql": "PostgreSQLCheckpointer",
    "dynamodb": "DynamoDBCheckpointer",
}


def open_checkpointer(backend: str) -> Checkpointer:
    """Create the backend's checkpointer from PERSISTENCE_* and .env."""
    module = import_module(f"agent_persistence.backends.{backend}")
    made: Checkpointer = getattr(module, BACKENDS[backend]).from_env(user_id="ada")
    return made


async def take_a_step(checkpointer: Checkpointer, thread_id: str, worker: str) -> None:
    """Load, decide, save; retry from the start if another worker saved first."""
    while True:
        found = await checkpointer.load_state(thread_id)
        steps = found.state["steps"] if found else []
        state = {"steps": [*steps, f"{worker} after {len(steps)}"]}
        try:
            await checkpointer.save_state(thread_id, state, expected_version=found.version if found else 0)
        except StateConflictError:
            continue
        return


async def main(backend: str) -> None:
    """Let three workers take a step each, concurrently."""
    async with open_checkpointer(backend) as checkpointer:
        if backend == "dynamodb":
            await checkpointer.create_table()  # type: ignore[attr-defined]  # a deployment does this once
        await asyncio.gather(*(take_a_step(checkpointer, "report", worker) for worker in ("ann", "ben", "cem")))
        found = await checkpointer.load_state("report")
        print(len(found.state["steps"] if found else []), "steps")
        for thread in await checkpointer.list_threads(limit=5):
            print("thread", thread.thread_id)


asyncio.run(main(sys.argv[1]))
