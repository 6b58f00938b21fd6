"""The examples are run as they say, twice; the documents show the same."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from frameworks import need_frameworks

from agent_persistence.embedded import EmbeddedServers

need_frameworks()

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["agentflow", "pyagenity"])
async def test_an_example_goes_on_with_its_conversation(
    name: str, address: str, servers: EmbeddedServers, config: dict[str, Any]
) -> None:
    environment = os.environ | {"PERSISTENCE_DATABASE_URL": address, "PERSISTENCE_REDIS_URL": servers.redis_url}
    program = ["-W", "ignore", str(ROOT / "examples" / f"{name}_chat.py"), config["thread_id"]]

    for question in ("Where is my order?", "And now?"):
        process = await asyncio.create_subprocess_exec(
            sys.executable, *program, question, env=environment, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await process.communicate()

    said = [line for line in printed.decode().splitlines() if line.startswith(("user:", "assistant:"))]
    assert [line for line in said if line.startswith("user")] == ["user: Where is my order?", "user: And now?"]
    assert said[1] == "assistant: I have read 1 messages."
    assert said[-1].startswith("assistant: I have read ")


def test_the_page_shows_the_example() -> None:
    example = (ROOT / "examples" / "agentflow_chat.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "howto" / "agentflow.md").read_text(encoding="utf-8")

    assert example.partition("import asyncio\n")[2] in page
