"""Messages that other programs have written are read by the frameworks, and written back unchanged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from frameworks import NAMES, Framework, framework, need_frameworks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_persistence.ids import STRING
from agent_persistence.integrations.checkpointing.conversion import META_KEY, new_messages
from agent_persistence.persistence import Persistence
from agent_persistence.records import MessageRecord, NewMessage
from agent_persistence.settings import PersistenceSettings
from conftest import MakeCheckpointer

need_frameworks()

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHATS: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "function", "name": "f", "content": "1"},
    {"role": "tool", "content": "1", "tool_call_id": None},
    {"role": "tool", "content": "1"},
    {"role": "tool", "content": [{"type": "text", "text": "1"}], "tool_call_id": "c"},
    {"role": "tool", "content": None, "tool_call_id": "c", "name": "f"},
    {"role": "assistant", "content": "a", "reasoning_content": [{"type": "text", "text": "why"}]},
    {"role": "assistant", "content": "a", "reasoning": "why"},
    {"role": "assistant", "content": "a", "reasoning_content": {"summary": []}},
    {"role": "assistant", "content": "a", "tool_calls": {}},
    {"role": "assistant", "content": "a", "tool_calls": []},
    {"role": "assistant", "content": None, "tool_calls": ["c"]},
    {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None, "audio": {"id": "a"}},
    {"role": "assistant", "content": "", "refusal": "no"},
    {"role": "assistant"},
    {"role": "user", "content": [{"type": "text", "text": None}, {"type": "image_url", "image_url": "u"}, 7, None]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": [{"type": "text"}]}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, [], {}]},
    {"role": "user", "content": "a", "name": "li", "metadata": 1, "id": 5, "timestamp": "now"},
]
USAGES: list[dict[str, Any]] = [
    {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": None, "service_tier": "standard"},
    {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3, "input_token_details": {"cache_read": 1}},
    {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": None, "cost": 0.1},
    {"promptTokenCount": 1, "candidatesTokenCount": 2, "totalTokenCount": 3},
    {"total_tokens": 1},
    {"prompt_tokens": "1", "completion_tokens": 2.5, "total_tokens": None},
    {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "reasoning_tokens": None, "image_tokens": "x"},
    {"prompt_tokens": True, "completion_tokens": [], "total_tokens": {}},
]
METAS: list[dict[str, Any]] = [
    {META_KEY: value}
    for value in (
        *({}, [], 7, "text", None, {"fields": 1}, {"fields": {}}, {"fields": {"role": "wizard"}}, {"mine": True}),
        *({"fields": {"content": 1}}, {"__escaped__": "\ue000ix"}, {"fields": {"usages": 1}}, {"block": {"type": 1}}),
    )
] + [{"source": "app", META_KEY: {"fields": {"timestamp": []}}}]
ALL = [
    *(NewMessage[Any](message=chat) for chat in CHATS),
    *(NewMessage[Any](message=CHATS[0], usages=usages, total_tokens=3) for usages in USAGES),
    *(NewMessage[Any](message=CHATS[0], meta=meta) for meta in METAS),
]


async def test_a_thread_of_another_program_is_read_and_written_back(
    words: Framework, make: MakeCheckpointer, config: dict[str, Any], address: str
) -> None:
    settings = PersistenceSettings(_env_file=None, database_url=address)
    async with Persistence[str, str](settings) as store:
        checkpointer, user_id = make(words, redis_url=None), config["user_id"]
        await store.threads.create(thread_id=config["thread_id"], user_id=user_id)
        await store.messages.append_many(config["thread_id"], ALL, user_id=user_id)
        before = await store.messages.page(config["thread_id"], user_id=user_id, limit=1000)

        read = await checkpointer.alist_messages(config)
        await checkpointer.aput_messages(config, read)
        again = await checkpointer.alist_messages(config)

        assert [one.message_id for one in read] == [record.message_id for record in before]
        assert again == read
        assert await store.messages.page(config["thread_id"], user_id=user_id, limit=1000) == before


async def test_a_thread_whose_meta_is_the_applications_own_is_read(
    words: Framework, make: MakeCheckpointer, config: dict[str, Any], address: str
) -> None:
    metas: list[dict[str, Any]] = [*METAS, {META_KEY: {"run_id": 7}}, {META_KEY: {"metadata": 7, "run_id": "r"}}]
    async with Persistence[str, str](PersistenceSettings(_env_file=None, database_url=address)) as store:
        for meta in metas:
            await store.threads.create(user_id=config["user_id"], meta=meta)

    threads = await make(words, redis_url=None).alist_threads(config)

    found = [thread.metadata for thread in threads]
    assert len(found) == len(metas)
    assert all(meta in found for meta in metas)


@pytest.mark.parametrize("chat", CHATS)
def test_what_a_framework_changes_is_changed_and_the_rest_stays(words: Framework, chat: dict[str, Any]) -> None:
    read = to_message(words, stored(chat, usages=USAGES[0]))
    read.content = words.text("changed").content

    [new] = new_messages([read], None, STRING)

    expected = {**chat, "content": "changed"}
    if chat["role"] == "tool":
        expected.pop("tool_call_id", None)
        new.message.pop("tool_call_id", None)  # type: ignore[attr-defined]  # a dict
    assert dict(new.message) == expected
    assert new.usages == USAGES[0]
    assert to_message(words, stored(dict(new.message), dict(new.usages), dict(new.meta))).content == read.content


@pytest.mark.parametrize(
    ("usages", "counts"), [(USAGES[0], (1, 2, 3)), (USAGES[1], (1, 2, 3)), (USAGES[3], (1, 2, 3)), (USAGES[4], None)]
)
def test_usages_are_read_in_the_words_of_the_framework(words: Framework, usages: Any, counts: Any) -> None:
    found = to_message(words, stored(CHATS[0], usages=usages)).usages

    assert (found and (found.prompt_tokens, found.completion_tokens, found.total_tokens)) == counts


_JSON = st.recursive(
    st.sampled_from([None, True, 0, 2**63 - 1, 0.5, "", "text"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "type"]), inner, max_size=2),
    max_leaves=4,
)
_PART = _JSON | st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image_url", "tool_result", "tool_use"])},
    optional={"text": _JSON, "image_url": _JSON, "content": _JSON},
)
_CHAT = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool", "developer", "function", "a later role"])},
    optional={
        "content": st.none() | st.text() | st.lists(_PART, max_size=3),
        "tool_calls": _JSON | st.lists(st.just(CALL)),
        "tool_call_id": _JSON,
        "reasoning_content": _JSON,
        "reasoning": _JSON,
        "name": _JSON,
        "raw": _JSON,
    },
)
_COUNTS = ["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "reasoning_tokens"]
_USAGES = st.dictionaries(st.sampled_from([*_COUNTS, "image_tokens", "other"]), _JSON | st.integers(0, 9))
_META = st.dictionaries(st.sampled_from(["mine", META_KEY]), _JSON | st.fixed_dictionaries({"fields": _JSON}))


@pytest.mark.parametrize("name", NAMES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)  # on a busy machine
@given(chat=_CHAT, usages=_USAGES, meta=_META)
def test_every_message_is_read_and_written_back(name: str, chat: Any, usages: Any, meta: Any) -> None:
    words = framework(name)

    read = to_message(words, stored(chat, usages, meta))
    [new] = new_messages([read], None, STRING)

    assert new.message == chat
    assert new.usages.items() >= usages.items()  # the framework adds its defaults
    assert {key: value for key, value in new.meta.items() if key != META_KEY} == {
        key: value for key, value in read.metadata.items() if key != META_KEY
    }
    assert to_message(words, stored(dict(new.message), dict(new.usages), dict(new.meta))) == read


def to_message(words: Framework, record: MessageRecord[str]) -> Any:
    return words.ours._framework.to_message(record)  # noqa: SLF001 - without a server


def stored(chat: dict[str, Any], usages: Any = None, meta: Any = None) -> MessageRecord[str]:
    now, content = datetime.now(UTC), chat.get("content")
    text = content if isinstance(content, str) else None
    return MessageRecord("t", "m", 1, chat["role"], chat, text, 0, usages or {}, meta or {}, now, now)
