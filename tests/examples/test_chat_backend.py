from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[2] / "examples" / "chat_backend.py"


async def test_the_example_says_what_it_did(make_database: Any, tmp_path: Path) -> None:
    environment = {**os.environ, "PERSISTENCE_DATABASE_URL": await make_database()}

    command = [sys.executable, EXAMPLE]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.stdout.splitlines() == [
        *("user: Where is my order?", "assistant: On its way."),
        *("user: I want my money back.", "assistant: Done."),
        "{'step': 'tracked'}",
        "0 old states",
    ], done.stderr


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 60
