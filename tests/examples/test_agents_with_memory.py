"""The examples of agents with memory, run as a reader runs them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "langgraph_memory.py": [
        "['I like tea', 'I shall remember.', 'Good.']",
        "['What do I like?', 'likes tea', 'Tea.']",
    ],
    "deepagents_memory.py": [
        "['I drink two cups of tea', 'Updated file /memories/tea.md', 'Noted.']",
        "['How many cups?', '@@ lines 1-1 of 1 @@\\ntwo cups', 'Two.']",
        "('u-42', 'files') /tea.md two cups",
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAYS)
def test_the_agent_remembers_in_another_thread(name: str, make_database: Callable[[], Awaitable[str]]) -> None:
    pytest.importorskip("deepagents")
    program = EXAMPLES / name
    environment = {**os.environ, "PERSISTENCE_DATABASE_URL": asyncio.run(make_database())}

    ran = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)

    assert (ran.stdout.splitlines(), ran.stderr) == (SAYS[name], "")
    assert len(program.read_text(encoding="utf-8").splitlines()) < 60
