"""The examples are run as they say, twice; the documents show the same."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from frameworks import Framework, need_frameworks

from agent_persistence.embedded import EmbeddedServers

need_frameworks()

ROOT = Path(__file__).parents[3]


def test_an_example_goes_on_with_its_conversation(
    words: Framework,
    address: str,
    servers: EmbeddedServers,
    config: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = str(ROOT / "examples" / f"{words.name}_chat.py")
    monkeypatch.setenv("PERSISTENCE_DATABASE_URL", address)
    monkeypatch.setenv("PERSISTENCE_REDIS_URL", servers.redis_url)

    for question in ("Where is my order?", "And now?"):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [program, config["thread_id"], question])
        runpy.run_path(program, run_name="__main__")

    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("user:", "assistant:"))]
    assert [line for line in said if line.startswith("user")] == ["user: Where is my order?", "user: And now?"]
    assert said[1] == "assistant: I have read 1 messages."
    assert said[-1].startswith("assistant: I have read ")


def test_the_page_shows_the_example() -> None:
    example = (ROOT / "examples" / "agentflow_chat.py").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "howto" / "agentflow.md").read_text(encoding="utf-8")

    assert example.partition("import asyncio\n")[2] in page
