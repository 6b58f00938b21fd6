from types import MappingProxyType
from typing import Any

import pytest
from chat_messages import chat_messages, written
from hypothesis import example, given
from hypothesis import strategies as st

from agent_persistence.encoding.chat_messages import MessageColumns, from_columns, to_columns
from agent_persistence.errors import InvalidInputError
from agent_persistence.records import MessageRole

CANARY = "canary-4711"
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
PARTS = [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": "https://x"}}, "this?"]


@given(chat_messages(st.text(max_size=12), st.integers() | st.floats(allow_nan=False)))
@example({"role": "assistant", "content": None, "tool_calls": [CALL, CALL]})
@example({"role": "user", "content": "", "extra": {"set": {"role": "tool"}}, "set": 1, "unset": ["role"]})
@example({"role": "tool", "tool_call_id": "x" * 256, "content": "\r\n\x1b[31m😀"})
@example({"role": "assistant", "reasoning": "a", "reasoning_content": "b"})
@example({"role": "assistant", "reasoning": "a", "reasoning_content": None, "tool_calls": None, "tool_call_id": None})
def test_a_message_put_together_again_is_the_message_that_was_cut(message: dict[str, Any]) -> None:
    assert written(from_columns(to_columns(message))) == written(message)


def test_a_plain_message_needs_its_columns_only() -> None:
    columns = to_columns(
        {
            "role": "assistant",
            "content": "It rains.",
            "tool_calls": [CALL],
            "tool_call_id": "call_0",
            "reasoning_content": "Oslo.",
        }
    )

    assert columns == MessageColumns(MessageRole.ASSISTANT, "It rains.", [CALL], "call_0", "Oslo.", None)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, ""),
        ({"content": None}, ""),
        ({"content": "as it is\r\n"}, "as it is\r\n"),
        ({"content": PARTS}, "What is\nthis?"),
        ({"content": [{"type": "image_url"}, {"text": 5}, 7, None]}, ""),
        ({"content": []}, ""),
    ],
)
def test_the_text_column_holds_what_people_read(content: dict[str, Any], text: str) -> None:
    assert to_columns({"role": "user", **content}).content == text


@pytest.mark.parametrize(("word", "role"), [("developer", MessageRole.SYSTEM), ("function", MessageRole.TOOL)])
def test_a_role_without_a_label_of_its_own_is_stored_under_the_nearest(word: str, role: MessageRole) -> None:
    columns = to_columns({"role": word, "content": "x"})

    assert columns.role is role
    assert from_columns(columns)["role"] == word


_PARTS: list[tuple[dict[str, Any], str]] = [
    ({"content": None, "refusal": "I cannot."}, "I cannot."),
    ({"refusal": "I cannot."}, "I cannot."),
    ({"content": "", "refusal": "I cannot."}, "I cannot."),
    ({"content": [{"type": "refusal", "refusal": "I cannot."}]}, "I cannot."),
    ({"content": None, "audio": {"id": "a", "transcript": "spoken", "data": "x"}}, "spoken"),
    ({"content": [{"type": "output_audio", "transcript": "spoken", "data": "x"}]}, "spoken"),
    ({"content": [{"type": "input_audio", "input_audio": {"data": "x", "transcript": "spoken"}}]}, "spoken"),
    ({"content": [{"type": "text", "text": {"value": "from an assistant", "annotations": []}}]}, "from an assistant"),
    ({"content": [{"type": "tool_result", "tool_use_id": "c", "content": "18 degrees"}]}, "18 degrees"),
    (
        {"content": [{"type": "tool_result", "content": [{"type": "text", "text": "18"}, {"type": "image"}]}]},
        "18",
    ),
    ({"content": [{"type": "web_search_tool_result", "content": [{"type": "text", "text": "18"}]}]}, "18"),
    ({"content": [{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}, "c"]}, "a\nb\nc"),
    ({"parts": [{"type": "text", "text": "from the AI SDK"}, {"type": "tool-weather"}]}, "from the AI SDK"),
    ({"content": "", "parts": [{"type": "text", "text": "from the AI SDK"}]}, "from the AI SDK"),
    ({"content": "said", "refusal": "not", "parts": [{"type": "text", "text": "twice"}]}, "said"),
    ({"content": [{"type": "image_url", "image_url": {"url": "u"}}, 7, None, [], {"text": 7}]}, ""),
    ({"content": None, "audio": 7, "refusal": 7, "parts": 7}, ""),
]


@pytest.mark.parametrize(("fields", "text"), _PARTS)
def test_the_text_is_what_a_person_would_read(fields: dict[str, Any], text: str) -> None:
    message = {"role": "assistant", **fields}

    columns = to_columns(message)

    assert columns.content == text
    assert from_columns(columns) == message


def test_parts_that_hold_themselves_end() -> None:
    part: dict[str, Any] = {"type": "tool_result"}
    part["content"] = [part, {"type": "text", "text": "a"}] * 500

    assert set(to_columns({"role": "user", "content": [part]}).content.split("\n")) == {"a"}


def test_reasoning_is_found_under_either_name() -> None:
    assert to_columns({"role": "assistant", "reasoning": "a"}).reasoning == "a"
    assert to_columns({"role": "assistant", "reasoning_content": "b"}).reasoning == "b"
    assert to_columns({"role": "assistant", "reasoning": {"no": "text"}}).reasoning is None


def test_a_call_id_that_its_column_cannot_hold_is_kept_beside_it() -> None:
    columns = to_columns({"role": "tool", "content": "x", "tool_call_id": "x" * 256})

    assert columns.tool_call_id is None
    assert from_columns(columns)["tool_call_id"] == "x" * 256


def test_a_role_and_a_mapping_of_other_types_are_taken_too() -> None:
    message = MappingProxyType({"role": MessageRole.USER, "content": "x"})

    assert from_columns(to_columns(message)) == {"role": "user", "content": "x"}


def test_a_role_that_this_version_does_not_know_reads_as_its_label() -> None:
    columns = MessageColumns("critic", "x", None, None, None, None)

    assert from_columns(columns) == {"role": "critic", "content": "x"}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (CANARY, "messages[3]"),
        ([("role", "user")], "messages[3]"),
        (None, "messages[3]"),
        ({}, "messages[3].role"),
        ({"role": CANARY}, "messages[3].role"),
        ({"role": None}, "messages[3].role"),
        ({"role": ["user"]}, "messages[3].role"),
        ({"role": "user", "content": {"text": CANARY}}, "messages[3].content"),
        ({"role": "user", "content": 4711}, "messages[3].content"),
        ({"role": "user", "content": CANARY.encode()}, "messages[3].content"),
    ],
)
def test_what_is_no_chat_message_is_refused_by_the_name_of_the_field(message: Any, field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        to_columns(message, "messages[3]")

    assert caught.value.field == field
    assert CANARY not in str(caught.value)
    assert "4711" not in str(caught.value)
