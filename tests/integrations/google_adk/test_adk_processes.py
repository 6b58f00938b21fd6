"""Google ADK's own server, and eight processes that append to one session."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.adk.cli.fast_api import get_fast_api_app
from google.adk.cli.service_registry import get_service_registry
from httpx import ASGITransport, AsyncClient
from integrations.google_adk.fake_llm import texts

from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings
from agent_persistence.shared import close_shared_persistence

TESTS = Path(__file__).parents[2]
AGENT = """
from google.adk.agents import LlmAgent
from integrations.google_adk.fake_llm import FakeLlm

root_agent = LlmAgent(name="helper", model=FakeLlm())
"""
SERVICES = """
from google.adk.cli.service_registry import get_service_registry
from agent_persistence.integrations.google_adk import PersistenceSessionService

get_service_registry().register_session_service("agent-persistence", lambda uri, **_: PersistenceSessionService())
"""
WRITER = """
import asyncio, random, sys
from google.adk.errors import StaleSessionError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.genai.types import Content, Part
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.shared import close_shared_persistence

async def main(name, session_id):
    service, key = PersistenceSessionService(), {"app_name": "app", "user_id": "ada", "session_id": session_id}
    await service.get_session(**key)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for number in range(5):
        delta = {f"{name}-{number}": number, f"app:{session_id}-{name}": number, "user:last": name}
        said = Content(role="user", parts=[Part(text=f"{name}-{number}")])
        event = Event(author="user", content=said, actions=EventActions(state_delta=delta))
        while True:
            try:
                await service.append_event(await service.get_session(**key), event)
                break
            except StaleSessionError:
                await asyncio.sleep(random.random() / 20)
    await close_shared_persistence()

asyncio.run(main(*sys.argv[1:]))
"""


def environment(settings: PersistenceSettings) -> dict[str, str]:
    assert settings.database_url
    assert settings.redis_url
    return {
        "PERSISTENCE_DATABASE_URL": settings.database_url.get_secret_value(),
        "PERSISTENCE_REDIS_URL": settings.redis_url.get_secret_value(),
        "PERSISTENCE_CACHE_NAMESPACE": settings.cache_namespace,
        "PERSISTENCE_CACHE_TIMEOUT_MS": "2000",
        "PERSISTENCE_CACHE_BUDGET_MS": "4000",
    }


@pytest.mark.slow
async def test_eight_processes_append_to_one_session(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], new_ids: Any
) -> None:
    settings, session_id = await settings_for(), new_ids.thread()
    async with Persistence[str, str](settings) as persistence:
        service = PersistenceSessionService(persistence=persistence)
        key = {"app_name": "app", "user_id": "ada", "session_id": session_id}
        await service.create_session(**key)

        writers = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "ignore", "-c", WRITER, f"w{number}", session_id),
                env=os.environ | environment(settings),
                stdin=PIPE,
                stdout=PIPE,
            )
            for number in range(8)
        ]
        for writer in writers:
            assert writer.stdout
            assert await writer.stdout.readline() == b"ready\n"
        await asyncio.gather(*(writer.communicate(b"go\n") for writer in writers))

        assert [writer.returncode for writer in writers] == [0] * 8
        session = await service.get_session(**key)
        assert session is not None
        said = texts([event.content for event in session.events if event.content])
        for number in range(8):
            assert [one for one in said if one.startswith(f"w{number}-")] == [f"w{number}-{n}" for n in range(5)]
        assert len(said) == 40
        assert len([name for name in session.state if ":" not in name]) == 40
        assert {session.state[f"app:{session_id}-w{number}"] for number in range(8)} == {4}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the server
async def test_the_server_of_adk_finds_the_service_by_its_uri(
    settings_for: Callable[..., Awaitable[PersistenceSettings]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    new_ids: Any,
) -> None:
    settings, session_id = await settings_for(), new_ids.thread()
    for variable, value in environment(settings).items():
        monkeypatch.setenv(variable, value)
    (tmp_path / "helper").mkdir()
    (tmp_path / "helper" / "__init__.py").write_text("from . import agent\n")
    (tmp_path / "helper" / "agent.py").write_text(AGENT)
    (tmp_path / "services.py").write_text(SERVICES)
    app = get_fast_api_app(agents_dir=str(tmp_path), session_service_uri="agent-persistence://", web=False)
    sessions = "/apps/helper/users/ada/sessions"
    message = {"role": "user", "parts": [{"text": "Hello"}]}
    run = {"appName": "helper", "userId": "ada", "sessionId": session_id, "newMessage": message}

    async with AsyncClient(transport=ASGITransport(app), base_url="http://adk") as client:
        await client.post(sessions, json={"sessionId": session_id, "state": {"city": "Oslo"}})
        for _ in range(2):
            assert (await client.post("/run", json=run)).status_code == 200
        listed = (await client.get(sessions)).json()
        found = (await client.get(f"{sessions}/{session_id}")).json()
        assert (await client.delete(f"{sessions}/{session_id}")).status_code == 200
        gone = await client.get(f"{sessions}/{session_id}")

    assert session_id in [one["id"] for one in listed]
    assert [event["content"]["parts"][0]["text"] for event in found["events"]] == ["Hello", "Yes."] * 2
    assert found["state"]["city"] == "Oslo"
    assert gone.status_code == 404
    assert isinstance(get_service_registry().create_session_service("agent-persistence://"), PersistenceSessionService)
    await close_shared_persistence()
