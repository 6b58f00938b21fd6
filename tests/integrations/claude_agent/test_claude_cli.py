"""The CLI that comes with the SDK, resumed from threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, ResultMessage, query
from integrations.claude_agent.fake_api import FakeAPI, fake_api

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.persistence import Persistence

pytestmark = pytest.mark.slow  # each run starts a program of 400 MB


async def run(prompt: str, **options: Any) -> str:
    """Return the session of a run."""
    session = ""
    async for message in query(prompt=prompt, options=ClaudeAgentOptions(setting_sources=[], **options)):
        if isinstance(message, ResultMessage):
            assert not message.is_error
            session = message.session_id
    return session


def conversation(api: FakeAPI) -> list[tuple[str, str]]:
    """Return what the last request said, without what the CLI adds."""
    said = [(message["role"], block) for message in api.requests[-1] for block in blocks(message["content"])]
    texts = [(role, block.get("text") or block.get("content") or block.get("id", "")) for role, block in said]
    return [(role, text) for role, text in texts if role != "system" and not text.startswith("<")]


def blocks(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


async def test_a_session_continues_with_what_other_programs_said(
    persistence: Persistence, user_id: str, tmp_path: Path
) -> None:
    store = PersistenceSessionStore(persistence=persistence, user_id=user_id, scoped=False)
    function = {"name": "weather", "arguments": "{}"}
    calls = [{"id": call_id, "type": "function", "function": function} for call_id in ("call_1", "call_2")]
    others: list[dict[str, Any]] = [
        {"role": "user", "content": "I am Ada."},
        *[{"role": "assistant", "content": None, "tool_calls": [call]} for call in calls],
        *[{"role": "tool", "tool_call_id": call["id"], "content": f"Snow {call['id']}"} for call in calls],
        {"role": "assistant", "content": "Hello Ada."},
    ]
    with fake_api(tmp_path) as (api, env):
        options = {"session_store": store, "env": env, "cwd": tmp_path}
        session = await run("Hello", **options)
        await persistence.messages.append_many(session, others, user_id=user_id)
        assert await run("Who am I?", resume=session, **options) == session

    assert conversation(api) == [
        ("user", "Hello"),
        ("assistant", "Reply 1."),
        ("user", "I am Ada."),
        ("assistant", "call_1"),
        ("assistant", "call_2"),
        ("user", "Snow call_1"),
        ("user", "Snow call_2"),
        ("assistant", "Hello Ada."),
        ("user", "Who am I?"),
    ]
    page = await persistence.messages.page(session, user_id=user_id)
    assert [message.text for message in page][-2:] == ["Who am I?", "Reply 4."]
    assert len(page) == len(conversation(api)) + 1


async def test_the_last_session_of_a_project_is_continued(
    persistence: Persistence, user_id: str, tmp_path: Path
) -> None:
    store = PersistenceSessionStore(persistence=persistence, user_id=user_id)
    with fake_api(tmp_path) as (api, env):
        options = {"session_store": store, "env": env, "cwd": tmp_path}
        await run("One", **options)
        second = await run("Two", **options)
        assert await run("Three", continue_conversation=True, **options) == second

    assert conversation(api) == [("user", "Two"), ("assistant", "Reply 1."), ("user", "Three")]
