"""Items of OpenAI's SDK as messages, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.forms.rows import edited, stored

from agent_persistence.forms.differences import is_same
from agent_persistence.forms.form import number_of_later_parts, read, written
from agent_persistence.forms.openai import OpenAIForm
from agent_persistence.records import NewMessage

FORM = OpenAIForm()
OUTPUT = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello.", "annotations": [], "logprobs": []}],
}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "Oslo"}',
    "status": "completed",
}
ANSWER = {"type": "function_call_output", "call_id": "call_1", "output": "Snow"}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "It asks for weather."}],
    "encrypted_content": "gAAA",
}
SEARCH = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "snow"}}
PICTURE = {
    "role": "user",
    "content": [
        {"type": "input_text", "text": "What is this?"},
        {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "auto"},
    ],
}
# kind of item, and the message that other frameworks read
SAID: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}),
    ({"role": "developer", "content": "Be brief."}, {"role": "developer", "content": "Be brief."}),
    ({"type": "message", "role": "user", "content": "Hi"}, {"role": "user", "content": "Hi"}),
    ({"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}, {"role": "user", "content": "Hi"}),
    (OUTPUT, {"role": "assistant", "content": "Hello."}),
    (
        {**OUTPUT, "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ),
    (
        CALL,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                }
            ],
        },
    ),
    (ANSWER, {"role": "tool", "tool_call_id": "call_1", "content": "Snow"}),
    (
        {**ANSWER, "output": [{"type": "input_text", "text": "Snow"}]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Snow"}]},
    ),
    (
        PICTURE,
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "auto"}},
            ],
        },
    ),
]
UNSAID = [
    REASONING,
    {"type": "reasoning", "id": "rs_2", "summary": []},
    SEARCH,
    {"type": "compaction", "encrypted_content": "x"},
    {"type": "item_reference", "id": "msg_1"},
    {"type": "of_next_year", "role": "user", "content": "?"},
    {"role": "owner", "content": "Hi"},
    {"type": ["message"], "role": "user", "content": "Hi"},
    {"type": [], "role": "user", "content": "Hi"},
    {"role": "user", "content": ""},
    {"role": "user", "content": [{"type": "of_next_year"}]},
    {"type": "function_call", "name": "no call id"},
    {},
]


@pytest.mark.parametrize(("item", "message"), SAID)
def test_an_item_is_a_message_that_every_program_reads(item: dict[str, Any], message: dict[str, Any]) -> None:
    [record] = stored(written(FORM, item))

    assert record.message == message
    assert record.aside is None
    assert [found.item for found in read(FORM, [record])] == [item]


@pytest.mark.parametrize("item", UNSAID)
def test_what_is_no_part_of_the_conversation_is_an_aside(item: dict[str, Any]) -> None:
    [record] = stored(written(FORM, item))

    assert record.aside == "openai"
    assert [found.item for found in read(FORM, [record])] == [item]


def test_people_see_a_summary_of_reasoning_and_models_do_not() -> None:
    [record] = stored(written(FORM, REASONING))

    assert (record.message["reasoning_content"], record.aside) == ("It asks for weather.", "openai")


def test_what_the_api_returns_costs_little_more_than_its_text() -> None:
    text = "x" * 1000
    [record] = stored(written(FORM, {**OUTPUT, "content": [{**OUTPUT["content"][0], "text": text}]}))  # type: ignore[index]

    assert len(str(record.meta)) < 70


@pytest.mark.parametrize("odd", ["NUL\0", "half \ud800", "\ue000", "emoji 🌍"])
def test_characters_that_postgresql_refuses_come_back(odd: str) -> None:
    items = [{"role": "user", "content": odd}, {**CALL, "arguments": odd}, {**ANSWER, "output": odd}, {"type": odd}]

    records = stored([row for item in items for row in written(FORM, item)])

    assert [found.item for found in read(FORM, records)] == items
    assert [record.aside for record in records] == [None, None, None, "openai"]


def test_an_edit_of_another_program_shows_through() -> None:
    [output, call] = stored([*written(FORM, OUTPUT), *written(FORM, CALL)])

    new = [
        edited(output, {"role": "assistant", "content": "Good bye."}),
        edited(call, {"role": "assistant", "content": "No call any more."}),
    ]

    assert [found.item for found in read(FORM, new)] == [
        {**OUTPUT, "content": [{**OUTPUT["content"][0], "text": "Good bye."}]},  # type: ignore[index]
        {"role": "assistant", "content": "No call any more."},
    ]


def test_a_message_of_another_framework_is_an_item_for_each_thing_that_it_says() -> None:
    function = {"name": "add", "arguments": "{}"}
    calls = [{"id": f"call_{number}", "type": "function", "function": function} for number in (1, 2)]
    said = {"role": "assistant", "content": "I add.", "tool_calls": calls, "reasoning_content": "sum"}
    [record] = stored([NewMessage(message=said)])

    items = [found.item for found in read(FORM, [record])]

    call = {"type": "function_call", "name": "add", "arguments": "{}"}
    assert items == [
        {"role": "assistant", "content": "I add."},
        {**call, "call_id": "call_1"},
        {**call, "call_id": "call_2"},
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(max_size=8)
parts = st.fixed_dictionaries(
    {"type": st.sampled_from(["input_text", "output_text", "refusal", "input_image", "input_file", "other"])},
    optional=dict.fromkeys(("text", "refusal", "image_url", "detail", "file_id", "annotations"), texts | json_values),
)
items = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "function_call", "function_call_output", "reasoning", "other", None])
        | json_values,
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]) | json_values,
        "content": texts | st.lists(parts, max_size=3) | json_values,
        "output": texts | st.lists(parts, max_size=3) | json_values,
        **dict.fromkeys(("id", "call_id", "name", "arguments", "summary", "status"), texts | json_values),
    },
)


@given(st.lists(items | st.dictionaries(texts, json_values, max_size=3), max_size=4))
def test_every_item_comes_back_equal(given_items: list[dict[str, Any]]) -> None:
    records = stored([row for item in given_items for row in written(FORM, item)])

    found = read(FORM, records)

    assert is_same([one.item for one in found], given_items)
    assert number_of_later_parts(FORM, records) == 0
