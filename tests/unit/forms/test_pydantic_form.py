"""Messages of Pydantic AI as messages of all, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.forms.rows import edited, stored

from agent_persistence.forms.differences import changed, difference, is_same
from agent_persistence.forms.form import read, without_forms, written
from agent_persistence.forms.pydantic_ai import PydanticAIForm

FORM = PydanticAIForm()
PNG = {"kind": "binary", "media_type": "image/png", "data": "_-8=", "identifier": "4fcd40"}
CALL = {"part_kind": "tool-call", "tool_name": "f", "tool_call_id": "c1"}
TEXT = {"part_kind": "text", "content": "Hello."}
THOUGHT = {"part_kind": "thinking", "content": "Hm.", "signature": "s"}


def request(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "request", "parts": list(parts), **more}


def response(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"kind": "response", "parts": list(parts), "usage": {"input_tokens": 7}, **more}


def answer(content: Any, **more: Any) -> dict[str, Any]:
    return {"part_kind": "tool-return", "tool_name": "f", "tool_call_id": "c1", "content": content, **more}


def prompt(content: Any) -> dict[str, Any]:
    return {"part_kind": "user-prompt", "content": content, "timestamp": "2026-11-30T12:00:00Z"}


def said(item: dict[str, Any]) -> list[dict[str, Any]]:
    return [dict(row.message) for row in written(FORM, item) if row.aside is None]


MESSAGES = [
    request({"part_kind": "system-prompt", "content": "Be brief."}, prompt("Hi"), instructions="x"),
    request(prompt(["Hi", PNG, {"kind": "image-url", "url": "https://x/y.png"}, {"kind": "cache-point"}, "more"])),
    request(prompt(["", {"kind": "uploaded-file", "file_id": "f1", "provider_name": "openai"}])),
    request(prompt([{"kind": "binary", "media_type": "audio/wav", "data": "_-8="}])),
    request(prompt([{"kind": "binary", "media_type": "application/pdf", "data": "_-8="}])),
    request(prompt([{"kind": "text-content", "content": "t", "metadata": {"a": 1}}])),
    request(answer("Snow"), answer({"a": [1, None]}), answer(["Map", PNG]), answer(PNG), answer("7"), answer(None)),
    request({"part_kind": "retry-prompt", "content": "no", "tool_name": "f", "tool_call_id": "c1"}),
    request({"part_kind": "retry-prompt", "content": [{"type": "missing"}]}, {"part_kind": "instruction-baseline"}),
    request({"part_kind": "speech", "speaker": "user", "transcript": "Hello?"}),
    response(THOUGHT, TEXT, {**CALL, "args": {"a": 1}}, {**CALL, "args": '{"a":  1}'}, CALL),
    response(TEXT, {**CALL, "args": "{}"}),
    response(THOUGHT),
    response(THOUGHT, THOUGHT, TEXT, TEXT),
    response(TEXT, {"part_kind": "builtin-tool-call", "args": {}}, {"part_kind": "file", "content": PNG}, TEXT),
    response({"part_kind": "speech", "speaker": "assistant", "transcript": "Hello."}),
    response({"part_kind": "text", "content": "\0\ud83d"}),
    response(),
    request(),
    {"kind": "of-2030", "parts": [TEXT]},
    {"kind": "response", "parts": {"of": 2030}},
    {},
]


@pytest.mark.parametrize("item", MESSAGES)
def test_a_message_comes_back_equal(item: dict[str, Any]) -> None:
    [found] = read(FORM, stored(written(FORM, item)))

    assert is_same(found.item, item)


@given(
    st.sampled_from(["request", "response"]),
    st.lists(
        st.dictionaries(
            st.sampled_from(["part_kind", "content", "args", "tool_name", "tool_call_id", "transcript", "x"]),
            st.sampled_from(
                ["text", "thinking", "tool-call", "tool-return", "user-prompt", "system-prompt", "", "{", "{}", "\0"]
            )
            | st.sampled_from([None, 7, {}, [], {"a": 1.5}, [PNG], [[]], PNG, ["a", None]]),
        ),
        max_size=5,
    ),
)
def test_any_message_comes_back_equal(kind: str, parts: list[Any]) -> None:
    item = {"kind": kind, "parts": parts}

    [found] = read(FORM, stored(written(FORM, item)))

    assert is_same(found.item, item)


def test_others_read_what_is_said() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,/+8="}}

    assert said(MESSAGES[0]) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert said(MESSAGES[1])[0]["content"][:2] == [{"type": "text", "text": "Hi"}, image]
    assert [one["content"] for one in said(MESSAGES[6])][:4] == [
        "Snow",
        '{"a":[1,null]}',
        [{"type": "text", "text": "Map"}, image],
        [image],
    ]
    [reply] = said(MESSAGES[10])
    assert (reply["content"], reply["reasoning_content"]) == ("Hello.", "Hm.")
    assert [call["function"]["arguments"] for call in reply["tool_calls"]] == ['{"a":1}', '{"a":  1}', "{}"]
    assert said(MESSAGES[12]) == said(MESSAGES[17]) == []


def test_what_is_said_is_not_stored_twice() -> None:
    long = "x" * 1000
    for item in (
        request(prompt([long, {"kind": "cache-point"}]), answer({"a": long}), answer([long, 7])),
        response({**THOUGHT, "content": long}, {**TEXT, "content": long}, {**CALL, "args": {"a": long}}),
    ):
        rows = written(FORM, item)
        assert sum(str(row.message).count(long) for row in rows) == 3
        assert not any(long in str(row.meta) for row in rows)


@pytest.mark.parametrize(
    ("chat", "item"),
    [
        (
            {"role": "developer", "content": "Be brief."},
            request({"part_kind": "system-prompt", "content": "Be brief."}),
        ),
        ({"role": "user", "content": None}, request({"part_kind": "user-prompt", "content": ""})),
        ({"role": "assistant", "content": "", "reasoning_content": "Hm."}, {"kind": "response", "parts": []}),
    ],
)
def test_messages_of_others_are_read(chat: dict[str, Any], item: dict[str, Any]) -> None:
    assert FORM.items(chat) == [item]


def test_a_role_that_nobody_knows_is_no_message() -> None:
    assert FORM.items({"role": "of-2030", "content": "?"}) == []


@pytest.mark.parametrize(
    "new",
    [
        {"role": "assistant", "content": "gone"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"arguments": {}}}]},
        {"role": "user", "content": [{"type": "text", "text": "gone"}, {"type": "of-2030"}, 7]},
    ],
)
def test_an_edited_message_is_read_as_it_is_now(new: dict[str, Any]) -> None:
    for item in (MESSAGES[10], MESSAGES[14], MESSAGES[16]):
        [row] = stored(written(FORM, item))

        found = read(FORM, [edited(row, new)])

        assert [one.item for one in found] == FORM.items(new)
        assert not any(one.is_own for one in found)


def test_a_copy_of_an_edited_message_keeps_the_meta_of_the_application_only() -> None:
    [row] = written(FORM, MESSAGES[11])

    assert without_forms({**row.meta, "app": {"as": 1}, "mine": {"n": 1}, "n": 7}) == {"mine": {"n": 1}, "n": 7}


@pytest.mark.parametrize(("old", "new"), [([1, 2], [1]), ([1], [2, 3]), ([], [1]), ([1], []), ([[1]], [[1, 2], 3])])
def test_lists_of_other_lengths_differ_by_their_ends(old: list[Any], new: list[Any]) -> None:
    assert changed(old, difference(old, new)) == new
