"""What goes in comes out: chat messages of every shape, through a real database."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from chat_messages import chat_messages, written
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from agent_persistence.persistence import Persistence

FOLDER = Path(os.environ.get("PERSISTENCE_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))
REAL_FILE = FOLDER / "conversations.jsonl"

storable_texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
storable_numbers = st.integers(1 - 2**63, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
KNOWN = [
    {"role": "system", "content": "Be brief."},
    {"role": "developer", "content": "Be brief.", "name": "me"},
    {"role": "user", "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "u"}}]},
    {"role": "user", "content": "line\r\nline\ttab \x1b[31mred\x1b[0m \x01\x7f 😀 é\u0301 \u2028"},
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "assistant", "tool_calls": [CALL], "function_call": None, "refusal": None, "audio": {"id": "a"}},
    {"role": "assistant", "content": "", "reasoning_content": "because", "annotations": []},
    {"role": "assistant", "content": "x", "reasoning": "because", "reasoning_details": [{"type": "t", "index": 0}]},
    {"role": "assistant", "content": "x", "reasoning": None, "reasoning_content": None, "tool_calls": None},
    {"role": "assistant", "content": [], "tool_calls": []},
    {"role": "tool", "content": "", "tool_call_id": "call_1"},
    {"role": "tool", "content": "out", "tool_call_id": "x" * 5000},
    {"role": "tool", "content": "out", "tool_call_id": None, "name": "f"},
    {"role": "function", "content": "out", "name": "f"},
    {"role": "user", "content": "x", "extra": {"set": {"role": "tool"}, "unset": ["content"]}, "set": 1, "unset": 2},
    {"role": "user", "content": "x", "": {"": [1, 1.0, True, None, -0.0, 1e23, 5e-324, 2**63 - 1, 1 - 2**63]}},
]


async def through_the_database(store: Persistence[str, str], user_id: str, messages: list[Any]) -> list[Any]:
    thread_id = (await store.threads.create(user_id=user_id)).thread_id
    made = await store.messages.append_many(thread_id, messages, user_id=user_id)
    assert [written(one.message) for one in made] == [written(message) for message in messages]
    page = await store.messages.page(thread_id, user_id=user_id, limit=1000)
    return [one.message for one in page]


@given(messages=st.lists(chat_messages(storable_texts, storable_numbers), min_size=1, max_size=10))
@example(messages=KNOWN)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_chat_message_comes_back_equal(
    persistence: Persistence[str, str], user_id: str, messages: list[Any]
) -> None:
    found = await through_the_database(persistence, user_id, messages)

    assert [written(message) for message in found] == [written(message) for message in messages]


async def test_a_message_that_replaces_another_comes_back_equal(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    made = await persistence.messages.append(thread_id, KNOWN[0], user_id=user_id)

    for message in KNOWN:
        updated = await persistence.messages.update(thread_id, made.message_id, message=message, user_id=user_id)
        found = await persistence.messages.require(thread_id, made.message_id, user_id=user_id)
        assert written(updated.message) == written(found.message) == written(message)


async def test_a_known_message_sent_again_is_the_same_message(persistence: Persistence[str, str], user_id: str) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    for place, message in enumerate(KNOWN):
        first, again = [
            await persistence.messages.append(thread_id, message, message_id=str(place), user_id=user_id)
            for _ in range(2)
        ]
        assert first == again


@pytest.mark.skipif(not REAL_FILE.is_file(), reason=f"{REAL_FILE} is not there; PERSISTENCE_TEST_DATA names its folder")
async def test_real_conversations_come_back_equal(persistence: Persistence[str, str], user_id: str) -> None:
    lines = filter(None, REAL_FILE.read_bytes().split(b"\n"))
    messages = {written(message): message for line in lines for message in json.loads(line)["messages"]}
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id

    for start in range(0, len(messages), 500):
        batch = list(messages.values())[start : start + 500]
        await persistence.messages.append_many(thread_id, batch, user_id=user_id)

    page = await persistence.messages.page(thread_id, user_id=user_id, limit=1000)
    found = list(page)
    while page.before is not None:
        page = await persistence.messages.page(thread_id, user_id=user_id, limit=1000, before=page.before)
        found = [*page, *found]
    assert [written(one.message) for one in found] == list(messages)
