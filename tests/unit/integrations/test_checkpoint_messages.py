"""Messages of the frameworks in the chat-completions shape, and those of others in the frameworks' words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from agent_persistence.ids import STRING
from agent_persistence.integrations.checkpointing.conversion import to_fields, to_new_message
from agent_persistence.records import MessageRecord

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TEXT = {"type": "text", "text": "hello", "annotations": []}
PICTURE = {"type": "image", "media": {"kind": "url", "url": "https://example.org/a.png", "width": 3}}


def dump(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    rest = dict.fromkeys(["tools_calls", "reasoning", "usages", "raw", "parsed_content"])
    return {"message_id": "m", "role": role, "content": content, "delta": False, "timestamp": 1.5, "metadata": {}} | (
        rest | fields
    )


def stored(chat: dict[str, Any], **fields: Any) -> MessageRecord[str]:
    values = {"message_id": "m", "total_tokens": 0, "usages": {}, "meta": {}, **fields}
    return MessageRecord(
        thread_id="t", seq=1, role=chat["role"], message=chat, text="", created_at=NOW, updated_at=NOW, **values
    )


@pytest.mark.parametrize(
    ("given", "chat"),
    [
        (dump("user", [TEXT]), {"role": "user", "content": "hello"}),
        (dump("system", []), {"role": "system", "content": None}),
        (
            dump("assistant", [], tools_calls=[{"id": "c"}], reasoning="why"),
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}], "reasoning_content": "why"},
        ),
        (
            dump("tool", [{"type": "tool_result", "call_id": "c", "output": "rain", "status": "completed"}]),
            {"role": "tool", "content": "rain", "tool_call_id": "c"},
        ),
        (
            dump("tool", [{"type": "tool_result", "call_id": "c", "output": {"a": 1}, "is_error": False}]),
            {"role": "tool", "content": '{"a":1}', "tool_call_id": "c"},
        ),
        (
            dump("user", [TEXT, PICTURE, {"type": "data", "mime_type": "x/y"}]),
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "hello"},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                ],
            },
        ),
        (dump("user", [{**TEXT, "text": "a\0b"}]), {"role": "user", "content": "a\ufffdb"}),
    ],
)
def test_a_message_is_stored_as_others_would_store_it(given: dict[str, Any], chat: dict[str, Any]) -> None:
    new = to_new_message(given, STRING, {"source": "test"})

    assert new.message == chat
    fields = to_fields(stored(dict(new.message), meta=dict(new.meta), usages=dict(new.usages)))
    assert {name: fields[name] for name in given} == given


def test_the_text_of_a_long_answer_is_stored_once() -> None:
    output = "x" * 1000

    new = to_new_message(
        dump("tool", [{"type": "tool_result", "call_id": "c", "output": output, "status": "completed"}]), STRING, None
    )

    assert output not in str(new.meta)


def test_usages_fill_the_column_that_counts_them() -> None:
    new = to_new_message(dump("user", [TEXT], usages={"total_tokens": 7, "prompt_tokens": 7}), STRING, None)

    assert (new.total_tokens, new.usages["prompt_tokens"]) == (7, 7)


@pytest.mark.parametrize(
    ("chat", "content"),
    [
        ({"role": "user", "content": "hello"}, [TEXT]),
        ({"role": "assistant", "content": None}, []),
        ({"role": "user", "content": ["hello", {"type": "text", "text": "hello"}]}, [TEXT, TEXT]),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
            [{"type": "image", "media": {"kind": "url", "url": "u"}}],
        ),
        ({"role": "user", "content": [{"type": "odd"}]}, [{**TEXT, "text": '{"type":"odd"}'}]),
        (
            {"role": "tool", "content": "rain", "tool_call_id": "c"},
            [{"type": "tool_result", "call_id": "c", "output": "rain"}],
        ),
    ],
)
def test_a_message_of_others_is_read_in_the_framework_s_words(chat: dict[str, Any], content: Any) -> None:
    fields = to_fields(stored(chat, meta={"mine": 1}, usages={"total_tokens": 1}))

    assert fields["content"] == content
    assert (fields["metadata"], fields["usages"], fields["timestamp"]) == (
        {"mine": 1},
        {"total_tokens": 1},
        NOW.timestamp(),
    )


def test_a_message_of_a_version_without_forms_is_read_as_before() -> None:
    chat = {"role": "tool", "content": "rain", "tool_call_id": "c"}
    rest = {"fields": {"timestamp": 1.5, "raw": {"a": 1}}, "block": {"status": "completed", "is_error": False}}

    fields = to_fields(stored(chat, meta={"mine": 1, "agentflow": rest}))

    block = {"type": "tool_result", "call_id": "c", "output": "rain", "status": "completed", "is_error": False}
    assert (fields["content"], fields["timestamp"], fields["raw"]) == ([block], 1.5, {"a": 1})
    assert fields["metadata"] == {"mine": 1}


def test_a_picture_of_the_framework_is_seen_by_all_and_stored_once() -> None:
    media = {"kind": "data", "data_base64": "iVBORw0KGgo=", "mime_type": "image/png", "url": None}
    given = dump("user", [TEXT, {"type": "image", "media": media, "alt_text": None}])

    new = to_new_message(given, STRING, None)

    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    assert new.message["content"] == [{"type": "text", "text": "hello"}, part]
    assert "iVBORw0KGgo=" not in str(new.meta)
    assert to_fields(stored(dict(new.message), meta=dict(new.meta)))["content"] == given["content"]


def test_a_message_that_says_nothing_is_an_aside() -> None:
    reasoning = dump("assistant", [{"type": "reasoning", "summary": "why", "details": None}], reasoning="why")

    new = to_new_message(reasoning, STRING, None)

    assert (new.aside, new.message["reasoning_content"]) == ("agentflow", "why")
    assert to_fields(stored(dict(new.message), meta=dict(new.meta)))["content"] == reasoning["content"]
