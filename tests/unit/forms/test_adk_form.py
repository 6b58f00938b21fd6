"""Events of Google ADK as messages, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.forms.rows import edited, stored

from agent_persistence.forms.adk import ADKForm
from agent_persistence.forms.adk_events import events_of
from agent_persistence.forms.differences import is_same
from agent_persistence.forms.form import number_of_later_parts, read, written
from agent_persistence.records import NewMessage

FORM = ADKForm()
Part = dict[str, Any]


def event(role: str, *parts: Part, author: str = "helper", **more: Any) -> dict[str, Any]:
    return {
        "id": "e1",
        "author": author,
        "invocation_id": "i1",
        "timestamp": 1796080029.1607769,
        "content": {"role": role, "parts": list(parts)},
        **more,
    }


def text(text: str) -> Part:
    return {"text": text}


def answer(call_id: str | None, response: Any, **more: Any) -> Part:
    return {"function_response": {"id": call_id, "name": "weather", "response": response, **more}}


def answered(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


CALL = {"function_call": {"id": "c1", "name": "weather", "args": {"city": "Oslo"}}}
CALLED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
PNG = {"inline_data": {"data": "__4=", "mime_type": "image/png"}}
SHOWN_PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64,//4="}}
THOUGHT = {"text": "It asks for weather.", "thought": True, "thought_signature": "c2ln"}

# event, and the messages that other frameworks read
SAID: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (event("user", text("Hi"), author="user"), [{"role": "user", "content": "Hi"}]),
    (event("model", text("Hi")), [{"role": "assistant", "content": "Hi"}]),
    ({"id": "e1", "author": "helper", "content": {"parts": [text("Hi")]}}, [{"role": "assistant", "content": "Hi"}]),
    (
        event("user", text("What is this?"), PNG, author="user"),
        [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, SHOWN_PNG]}],
    ),
    (
        event("user", {"file_data": {"file_uri": "https://example.org/a.png", "mime_type": "image/png"}}),
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            }
        ],
    ),
    (
        event("user", {"inline_data": {"data": "_-8=", "mime_type": "audio/wav"}}),
        [
            {
                "role": "user",
                "content": [{"type": "input_audio", "input_audio": {"data": "/+8=", "format": "wav"}}],
            }
        ],
    ),
    (
        event("user", {"inline_data": {"data": "JVBE", "mime_type": "application/pdf", "display_name": "a.pdf"}}),
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
                    }
                ],
            }
        ],
    ),
    (
        event("model", THOUGHT, text("I look."), CALL),
        [{"role": "assistant", "content": "I look.", "tool_calls": [CALLED]}],
    ),
    (
        event("user", answer("c1", {"result": "Snow"}), answer("c2", {"error": "no such city"})),
        [answered("c1", "Snow"), answered("c2", '{"error":"no such city"}')],
    ),
    (
        event("user", answer("c1", {"result": "Map:"}, parts=[PNG])),
        [answered("c1", [{"type": "text", "text": "Map:"}, SHOWN_PNG])],
    ),
    (
        event("user", answer("c1", {"result": '{"snow":1}'}), text("And you?")),
        [answered("c1", '{"snow":1}'), {"role": "user", "content": "And you?"}],
    ),
]
SAYS_NOTHING: list[dict[str, Any]] = [
    {"id": "e1", "author": "helper", "actions": {"state_delta": {"city": "Oslo"}}},
    event("model"),
    event("model", THOUGHT),
    event("model", {"executable_code": {"code": "1 + 1", "language": "PYTHON"}}),
    event("model", text("Summary."), actions={"compaction": {"start_timestamp": 1.0}}),
    event("user", answer(None, {"result": "of no call"})),
    {"id": "e1", "content": "of a newer version"},
    {},
]


@pytest.mark.parametrize(("item", "messages"), SAID)
def test_an_event_is_said_in_messages_that_everybody_reads_and_comes_back_equal(
    item: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    rows = written(FORM, item)

    assert [row.message for row in rows] == messages
    assert [row.aside for row in rows] == [None] * len(messages)
    assert "whole" not in str(rows[0].meta)
    [found] = read(FORM, stored(rows))
    assert is_same(found.item, item)


@pytest.mark.parametrize("item", SAYS_NOTHING)
def test_an_event_that_says_nothing_is_an_aside(item: dict[str, Any]) -> None:
    [row] = written(FORM, item)

    assert row.aside == "adk"
    [found] = read(FORM, stored([row]))
    assert is_same(found.item, item)


def test_thoughts_are_shown_as_reasoning_and_an_image_is_never_stored_twice() -> None:
    [thought], [picture] = written(FORM, event("model", THOUGHT)), written(FORM, event("user", PNG))

    assert thought.message["reasoning_content"] == "It asks for weather."
    assert "__4=" not in str(picture.meta)


def test_an_edited_message_is_read_as_it_is_now() -> None:
    [row] = stored(written(FORM, event("model", text("Hi"))))

    [found] = read(FORM, [edited(row, {"role": "assistant", "content": "Hello"})])

    assert found.item["content"] == {"role": "model", "parts": [text("Hello")]}


def test_messages_of_others_get_ids_times_authors_and_the_names_of_tools() -> None:
    chats = [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": "", "tool_calls": [CALLED]},
        answered("c1", "Snow"),
        answered("c9", ""),
        {"role": "user", "content": "Thanks"},
    ]
    rows = stored([NewMessage(message=chat) for chat in chats])

    events = events_of(read(FORM, rows), "other")

    assert [(one["id"], one["author"], one["timestamp"] > 0) for one in events] == [
        ("m2", "other", True),
        ("m3", "other", True),
        ("m4", "other", True),
        ("m5", "user", True),
    ]
    assert [one["content"]["parts"] for one in events[:3]] == [
        [CALL],
        [{"function_response": {"id": "c1", "name": "weather", "response": {"result": "Snow"}}}],
        [{"function_response": {"id": "c9", "response": {"result": ""}}}],
    ]


def test_the_rows_of_an_event_are_counted_that_begin_on_the_page_before() -> None:
    rows = stored(written(FORM, event("user", *(answer(f"c{number}", {"result": "x"}) for number in range(3)))))

    assert [number_of_later_parts(FORM, rows[first:]) for first in range(4)] == [0, 2, 1, 0]


texts = st.text(max_size=8) | st.sampled_from(["\0", "\ud800", "\ue000", "c1", "user", "model"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
parts = st.sampled_from([CALL, PNG, THOUGHT, text("Hi"), answer("c1", {"result": "Snow"}), answer("c2", {})]) | (
    st.builds(
        lambda key, value: {key: value}, st.sampled_from(["text", "function_call", "function_response"]), json_values
    )
)
contents = st.fixed_dictionaries({"parts": st.lists(parts, max_size=4)}, optional={"role": texts}) | json_values
events = st.fixed_dictionaries(
    {"author": texts, "content": contents}, optional={"actions": json_values, "id": texts, "timestamp": json_values}
)


@given(st.lists(events | st.dictionaries(texts, json_values, max_size=3), max_size=4))
def test_every_event_comes_back_equal(given_items: list[dict[str, Any]]) -> None:
    records = stored([row for item in given_items for row in written(FORM, item)])

    assert is_same([one.item for one in read(FORM, records)], given_items)
