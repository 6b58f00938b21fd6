"""Eight processes that write to one thread, each through a framework: nothing is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from integrations.google_adk.test_adk_processes import environment

from agent_persistence.persistence import Persistence
from agent_persistence.settings import PersistenceSettings

TESTS = Path(__file__).parents[1]
ROUNDS = 5
WRITERS = 8
PROGRAM = """
import asyncio, random, sys, uuid
from google.adk.errors import StaleSessionError
from google.adk.events.event import Event
from google.genai.types import Content, Part
from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.shared import close_shared_persistence

async def openai(thread_id, text):
    await PersistenceSession(thread_id, user_id="ada").add_items([{"role": "user", "content": text}])

async def claude(thread_id, text):
    entry = {"type": "user", "uuid": str(uuid.uuid4()), "message": {"role": "user", "content": text}}
    store = PersistenceSessionStore(user_id="ada", scoped=False)
    await store.append({"project_key": "p", "session_id": thread_id}, [entry])

async def adk(thread_id, text):
    service, key = PersistenceSessionService(scoped=False), {"app_name": "a", "user_id": "ada", "session_id": thread_id}
    event = Event(author="user", content=Content(role="user", parts=[Part(text=text)]))
    while True:
        try:
            session = await service.get_session(**key) or await service.create_session(**key)
            return await service.append_event(session, event)
        except StaleSessionError:
            await asyncio.sleep(random.random() / 20)
        except Exception as error:
            if type(error).__name__ != "AlreadyExistsError":  # begun by another process a moment ago
                raise

async def main(number, thread_id, rounds):
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for round in range(rounds):
        await [openai, claude, adk][number % 3](thread_id, f"{number}-{round}")
    await close_shared_persistence()

asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.slow
async def test_processes_of_all_frameworks_begin_and_write_to_one_thread(
    settings_for: Callable[..., Awaitable[PersistenceSettings]], new_ids: Any
) -> None:
    settings, thread_id = await settings_for(), new_ids.thread()
    writers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore", "-c", PROGRAM, str(number), thread_id, str(ROUNDS)),
            cwd=TESTS,
            env=os.environ | environment(settings),
            stdin=PIPE,
            stdout=PIPE,
        )
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout
        assert await writer.stdout.readline() == b"ready\n"

    await asyncio.gather(*(writer.communicate(b"go\n") for writer in writers))

    assert [writer.returncode for writer in writers] == [0] * WRITERS
    async with Persistence[str, str](settings) as persistence:
        page = await persistence.messages.page(thread_id, user_id="ada", limit=1000)
    texts = [message.text for message in page]
    assert len(texts) == WRITERS * ROUNDS
    for number in range(WRITERS):
        assert [text for text in texts if text.startswith(f"{number}-")] == [f"{number}-{n}" for n in range(ROUNDS)]
