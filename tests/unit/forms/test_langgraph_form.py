"""LangChain's messages as messages that every framework reads, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.forms.rows import edited, stored

from agent_persistence.forms.differences import is_same
from agent_persistence.forms.form import read, written
from agent_persistence.forms.langgraph import LangGraphForm
from agent_persistence.records import NewMessage

FORM = LangGraphForm()
TEXT = {"type": "text", "text": "Look."}
PNG = "iVBORw0KGgo="
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
LINK: dict[str, Any] = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0="}}
PDF = {"mime_type": "application/pdf", "data": "JVBERi0="}
CALL = {"name": "weather", "args": {"city": "Oslo"}, "id": "c", "type": "tool_call"}
CHAT_CALL = {"type": "function", "id": "c", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
THINKING = {"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"}
# what LangChain holds, and the message that other frameworks read
SAID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"type": "human", "content": "Hi"}, {"role": "user", "content": "Hi"}),
    ({"type": "system", "content": "Be brief."}, {"role": "system", "content": "Be brief."}),
    (
        {"type": "system", "content": "Be brief.", "additional_kwargs": {"__openai_role__": "developer"}},
        {"role": "developer", "content": "Be brief."},
    ),
    ({"type": "human", "content": "Hi", "name": "li"}, {"role": "user", "name": "li", "content": "Hi"}),
    ({"type": "human", "content": [TEXT]}, {"role": "user", "content": "Look."}),
    ({"type": "human", "content": ["Look.", TEXT]}, {"role": "user", "content": [TEXT, TEXT]}),
    (
        {"type": "ai", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [CHAT_CALL]},
    ),
    (
        {"type": "ai", "content": [THINKING, TEXT, {"type": "tool_use", "id": "c", "name": "weather", "input": {}}]},
        {
            "role": "assistant",
            "content": "Look.",
            "tool_calls": [{**CHAT_CALL, "function": {"name": "weather", "arguments": "{}"}}],
            "reasoning_content": "Two cities.",
        },
    ),
    (
        {"type": "ai", "content": "Hi", "additional_kwargs": {"reasoning_content": "why", "refusal": "no"}},
        {"role": "assistant", "content": "Hi", "reasoning_content": "why", "refusal": "no"},
    ),
    (
        {"type": "tool", "tool_call_id": "c", "content": "no such city", "status": "error"},
        {"role": "tool", "tool_call_id": "c", "content": "no such city", "status": "error"},
    ),
    ({"type": "tool", "tool_call_id": "c", "content": ""}, {"role": "tool", "tool_call_id": "c", "content": ""}),
    ({"type": "function", "name": "f", "content": "1"}, {"role": "function", "name": "f", "content": "1"}),
    ({"type": "chat", "role": "critic", "content": "Hm"}, {"role": "user", "name": "critic", "content": "Hm"}),
]
PICTURES: list[dict[str, Any]] = [
    {"type": "image_url", "image_url": LINK["image_url"]["url"]},
    {"type": "image", "url": "https://example.org/a.png"},
    {"type": "image", "source_type": "url", "url": "https://example.org/a.png"},
    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
]
DATA: list[dict[str, Any]] = [
    {"type": "image", "base64": PNG, "mime_type": "image/png"},
    {"type": "image", "source_type": "base64", "data": PNG, "mime_type": "image/png"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
]
FILES: list[dict[str, Any]] = [
    {"type": "file", "base64": PDF["data"], "mime_type": "application/pdf"},
    {"type": "file", "source_type": "base64", **PDF},
    {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF["data"]}},
]
UNSAID: list[dict[str, Any]] = [
    {"type": "ai", "content": ""},
    {"type": "human", "content": []},
    {"type": "ai", "content": [{"type": "redacted_thinking", "data": "x"}]},
    {"type": "human", "content": "Before: ...", "additional_kwargs": {"lc_source": "summarization"}},
    {"type": "remove", "content": ""},
    {"type": "of_next_year", "content": "?"},
    {"type": "human"},
    {"type": ["human"], "content": "Hi"},
    {},
]


@pytest.mark.parametrize(("item", "message"), SAID)
def test_a_message_of_langchain_is_one_that_every_program_reads(item: dict[str, Any], message: dict[str, Any]) -> None:
    [record] = stored(written(FORM, item))

    assert record.message == message
    assert record.aside is None
    assert [found.item for found in read(FORM, [record])] == [item]


@pytest.mark.parametrize(
    ("block", "part"),
    [
        *((block, LINK) for block in PICTURES),
        *((block, PICTURE) for block in DATA),
        *((block, FILE) for block in FILES),
    ],
)
def test_a_picture_of_any_provider_is_one_and_is_stored_once(block: dict[str, Any], part: dict[str, Any]) -> None:
    item = {"type": "human", "content": [TEXT, {**block, "cache_control": {"type": "ephemeral"}}]}

    [record] = stored(written(FORM, item))

    assert record.message["content"] == [TEXT, part]
    assert [found.item for found in read(FORM, [record])] == [item]
    assert PNG not in str(record.meta)
    assert PDF["data"] not in str(record.meta)


@pytest.mark.parametrize("item", UNSAID)
def test_what_is_no_part_of_the_conversation_is_an_aside(item: dict[str, Any]) -> None:
    [record] = stored(written(FORM, item))

    assert record.aside == "langgraph"
    assert [found.item for found in read(FORM, [record])] == [item]


def test_people_see_a_summary_and_reasoning_alone_and_models_do_not() -> None:
    [thought] = stored(written(FORM, {"type": "ai", "content": [THINKING]}))
    [summary] = stored(written(FORM, UNSAID[3]))

    assert (thought.message["reasoning_content"], thought.aside) == ("Two cities.", "langgraph")
    assert (summary.message["content"], summary.aside) == ("Before: ...", "langgraph")


def test_answers_of_tools_in_one_message_are_a_message_each() -> None:
    answers = [{"type": "tool_result", "tool_use_id": call_id, "content": "Snow"} for call_id in ("c", "d")]
    item: dict[str, Any] = {"type": "human", "content": [*answers, TEXT]}

    records = stored(written(FORM, item))

    assert [record.message for record in records] == [
        {"role": "tool", "tool_call_id": "c", "content": "Snow"},
        {"role": "tool", "tool_call_id": "d", "content": "Snow"},
        {"role": "user", "content": "Look."},
    ]
    assert [found.item for found in read(FORM, records)] == [item]


@pytest.mark.parametrize("odd", ["NUL\0", "half \ud800", "\ue000", "emoji 🌍"])
def test_characters_that_postgresql_refuses_come_back(odd: str) -> None:
    items: list[dict[str, Any]] = [
        {"type": "human", "content": odd},
        {"type": "ai", "content": "", "tool_calls": [{**CALL, "id": odd}]},
    ]

    records = stored([row for item in items for row in written(FORM, item)])

    assert [found.item for found in read(FORM, records)] == items
    assert [record.aside for record in records] == [None, None]


def test_an_edit_of_another_program_shows_through() -> None:
    item: dict[str, Any] = {"type": "ai", "content": [THINKING, TEXT], "response_metadata": {"model": "m"}}
    [record] = stored(written(FORM, item))

    new = edited(record, {**record.message, "content": "Good bye."})

    [found] = read(FORM, [new])
    assert found.item == {**item, "content": [THINKING, {"type": "text", "text": "Good bye."}]}


def test_a_message_of_another_framework_is_one_of_langchain() -> None:
    said: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [CHAT_CALL], "reasoning_content": "why"},
        {"role": "tool", "tool_call_id": "c", "content": [TEXT, PICTURE]},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "d", "function": {"name": "f", "arguments": "no"}}]},
    ]
    records = stored([NewMessage(message=message) for message in said])

    assert [found.item for found in read(FORM, records)] == [
        {"type": "system", "content": "Be brief.", "additional_kwargs": {"__openai_role__": "developer"}},
        {"type": "ai", "content": "", "tool_calls": [CALL], "additional_kwargs": {"reasoning_content": "why"}},
        {"type": "tool", "tool_call_id": "c", "content": [TEXT, PICTURE]},
        {
            "type": "ai",
            "content": "",
            "tool_calls": [{"name": "f", "args": {"arguments": "no"}, "id": "d", "type": "tool_call"}],
        },
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(max_size=8)
kinds = ["text", "thinking", "reasoning", "tool_use", "tool_call", "tool_result", "image", "image_url", "file", "other"]
blocks: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {"type": st.sampled_from(kinds)},
    optional={
        "source": st.sampled_from([DATA[2]["source"], {"type": "url", "url": "u"}]) | json_values,
        **dict.fromkeys(
            ("text", "thinking", "url", "base64", "mime_type", "image_url", "id", "input"), texts | json_values
        ),
    },
)
items: st.SearchStrategy[Any] = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["human", "ai", "system", "tool", "function", "chat", "remove"]) | json_values,
        "content": texts | st.lists(blocks | json_values, max_size=3) | json_values,
        "tool_calls": st.lists(st.just(CALL), max_size=2) | json_values,
        "additional_kwargs": st.dictionaries(
            st.sampled_from(["reasoning_content", "refusal", "lc_source"]), json_values
        ),
        **dict.fromkeys(("name", "role", "status", "tool_call_id", "invalid_tool_calls"), texts | json_values),
    },
)


@given(st.lists(items | st.dictionaries(texts, json_values, max_size=3), max_size=4))
def test_every_item_comes_back_equal(given_items: list[dict[str, Any]]) -> None:
    records = stored([row for item in given_items for row in written(FORM, item)])

    assert is_same([found.item for found in read(FORM, records)], given_items)
