"""The example of a LangGraph agent, run as a reader runs it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "langgraph_chat.py"


def test_the_agent_goes_on_in_another_store(make_database: Callable[[], Awaitable[str]]) -> None:
    environment = {**os.environ, "PERSISTENCE_DATABASE_URL": asyncio.run(make_database())}

    ran = subprocess.run([sys.executable, EXAMPLE], env=environment, capture_output=True, text=True, check=False)

    assert (ran.stdout.splitlines(), ran.stderr) == (
        [
            "May I refund for 'a bell that does not ring'?",
            "user: a bell that does not ring",
            "assistant: It is refunded.",
        ],
        "",
    )
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60
