"""Print what each framework reads of the conversation that another one wrote: python -m integrations.pairs."""

from __future__ import annotations

import asyncio
import uuid
from tempfile import TemporaryDirectory

from integrations.conversations import SAID, Program
from integrations.programs import PROGRAMS

from agent_persistence import Persistence, PersistenceSettings, embedded

USER = "ada"


async def main() -> None:
    """Start servers, and print the table of those that are installed."""
    with TemporaryDirectory() as folder:
        url = embedded.start(folder, durable=False).database_url
        try:
            settings = PersistenceSettings(_env_file=None, database_url=url, auto_migrate=True)
            async with Persistence[str, str](settings) as persistence:
                await show(persistence)
        finally:
            embedded.stop(folder)


async def show(persistence: Persistence[str, str]) -> None:
    """Print the table: of what is said, how much the framework of a column reads, in order and unchanged."""
    names = [program.__name__ for program in PROGRAMS]
    print(f"| written by | {' | '.join(f'read by {name}' for name in names)} |")
    print("|---" * (len(names) + 1) + "|")
    for writer in PROGRAMS:
        thread_id = str(uuid.uuid4())
        await writer(persistence, thread_id, USER).write(writer.CONVERSATION)
        read = [await reads(program(persistence, thread_id, USER)) for program in PROGRAMS]
        print(f"| {writer.__name__} | {' | '.join(read)} |")


async def reads(program: Program) -> str:
    """Return how many of the things that were said a framework reads."""
    found = await program.read()
    same = sum(one == said for one, said in zip(found, SAID, strict=False))
    return f"{same} of {len(SAID)}" if len(found) == len(SAID) else f"{same} of {len(SAID)}, {len(found)} read"


if __name__ == "__main__":
    asyncio.run(main())
