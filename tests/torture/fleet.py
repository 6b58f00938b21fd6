"""The client processes: started, ordered about, killed and started again."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from agent_persistence import UnavailableError
from torture.history import Recorder

START_SECONDS = 30.0
RESTART_SECONDS = 1.0
END_SECONDS = 25.0
"""More than a call may take; a client that has not ended by then has calls that nobody answered."""


@dataclass
class Fleet:
    """All client processes.

    Attributes:
        folder: where they write their histories.
        environment: ``PERSISTENCE_*``.
        roles: what each process does and has in its environment beyond that; they are dealt out in turn. One that
            takes the place of a process that was killed takes its role.
        plants: the defects of each; the first of several clients has the first.
    """

    folder: Path
    recorder: Recorder
    environment: dict[str, str]
    roles: dict[str, dict[str, str]]
    seed: int
    plants: tuple[str, ...] = ()
    _processes: dict[str, Process] = field(default_factory=dict)
    _places: dict[str, int] = field(default_factory=dict)
    _started: int = 0

    async def start(self, count: int) -> None:
        await asyncio.gather(*(self.start_one(place) for place in range(count)))

    async def start_one(self, place: int) -> None:
        """Start a process; again if it ends before it is ready, as an orchestrator would: a fault may have its end."""
        async with asyncio.timeout(START_SECONDS):
            while not await self._has_started(place):  # noqa: ASYNC110 - the process tells nobody when it can
                await asyncio.sleep(RESTART_SECONDS)

    async def _has_started(self, place: int) -> bool:
        plants = self.plants[place % len(self.plants)] if self.plants else ""
        role = [*self.roles][place % len(self.roles)]
        self._started += 1
        name = f"client{self._started}"
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PERSISTENCE_")}
        log_file = self.folder / f"{name}.log"
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "torture.client", name, str(self.folder), f"{self.seed}-{name}", role, plants,
                stdin=PIPE, stdout=PIPE, stderr=log, cwd=self.folder, start_new_session=True,
                env={**environment, **self.environment, **self.roles[role], "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        assert process.stdout is not None
        if await process.stdout.readline() == b"ready\n":
            self._processes[name], self._places[name] = process, place
            return True
        await process.wait()
        said = log_file.read_text()
        if UnavailableError.__name__ not in said:
            raise RuntimeError(f"{name} did not start:\n{said[-1500:]}")
        return False

    async def kill_one(self, random: Random) -> int:
        """Kill a process, and return its place."""
        name = random.choice(sorted(self._processes))
        process = self._processes.pop(name)
        self.recorder.write("killed", process=name)
        process.kill()
        await process.wait()
        return self._places[name]

    def order(self, text: str) -> None:
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.write(f"{text}\n".encode())

    async def stop(self) -> None:
        """Let every client finish what it is doing."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()
        await asyncio.gather(*(self._end(name, process) for name, process in self._processes.items()))
        self._processes.clear()

    def kill_all(self) -> None:
        for process in self._processes.values():
            if process.returncode is None:
                process.kill()

    async def _end(self, name: str, process: Process) -> None:
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if process.returncode != 0:
            self.recorder.write("error", kind=name, error="ClientDied", text=f"see {name}.log")
