"""Entries of Claude's transcripts as messages, and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.forms.rows import edited, stored

from agent_persistence.forms.claude import ClaudeForm
from agent_persistence.forms.claude_chain import chained
from agent_persistence.forms.differences import is_same
from agent_persistence.forms.form import read, written
from agent_persistence.records import MessageRecord, NewMessage

FORM = ClaudeForm()
Block = dict[str, Any]


def entry(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": role, "uuid": "u1", "parentUuid": None, "message": {"role": role, "content": content}, **more}


def text(text: str) -> Block:
    return {"type": "text", "text": text}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
CALLED = {"id": "toolu_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
PDF = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
    "title": "a.pdf",
}
THINKING = {"type": "thinking", "thinking": "It asks for weather.", "signature": "c2ln"}


def answer(call_id: str, content: Any, **more: Any) -> Block:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def answered(call_id: str, content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


# entry, and the messages that other frameworks read
SAID: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
    (entry("user", "Hi"), [{"role": "user", "content": "Hi"}]),
    (entry("user", [text("Hi")]), [{"role": "user", "content": "Hi"}]),
    (
        entry("user", [text("What is this?"), PNG, PDF]),
        [
            {
                "role": "user",
                "content": [
                    text("What is this?"),
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
                    {
                        "type": "file",
                        "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"},
                    },
                ],
            }
        ],
    ),
    (
        entry("user", [{"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}]),
        [
            {
                "role": "user",
                "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}],
            }
        ],
    ),
    (entry("assistant", [text("Hello.")]), [{"role": "assistant", "content": "Hello."}]),
    (entry("assistant", [CALL]), [{"role": "assistant", "content": None, "tool_calls": [CALLED]}]),
    (
        entry("assistant", [THINKING, text("I look."), CALL, {**CALL, "id": "toolu_2"}]),
        [{"role": "assistant", "content": "I look.", "tool_calls": [CALLED, {**CALLED, "id": "toolu_2"}]}],
    ),
    (entry("user", [answer("toolu_1", "Snow")], toolUseResult="Snow"), [answered("toolu_1", "Snow")]),
    (
        entry("user", [answer("toolu_1", [text("Snow"), PNG])]),
        [
            answered(
                "toolu_1",
                [text("Snow"), {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}],
            )
        ],
    ),
    (
        entry("user", [answer("toolu_1", "Snow"), answer("toolu_2", "no city", is_error=True), text("Well?")]),
        [answered("toolu_1", "Snow"), answered("toolu_2", "no city"), {"role": "user", "content": "Well?"}],
    ),
]
UNSAID = [
    entry("assistant", [THINKING]),
    entry("assistant", [{"type": "redacted_thinking", "data": "x"}]),
    entry("user", ""),
    entry("user", []),
    entry("user", "<local-command-caveat>", isMeta=True),
    entry("user", "This session is continued.", isCompactSummary=True),
    entry("assistant", [text("API Error: 529")], isApiErrorMessage=True),
    {"type": "system", "subtype": "compact_boundary", "uuid": "u2"},
    {"type": "file-history-snapshot", "snapshot": {}},
    {"type": "user", "message": {"role": "assistant", "content": "?"}},
    {"type": "of_next_year", "message": {"role": "user", "content": "?"}},
    {"type": "user", "message": "?"},
    {"type": "user"},
    {},
]


@pytest.mark.parametrize(("item", "messages"), SAID)
def test_an_entry_is_messages_that_every_program_reads(item: dict[str, Any], messages: list[dict[str, Any]]) -> None:
    records = stored(written(FORM, item))

    assert [record.message for record in records] == messages
    assert all(record.aside is None for record in records)
    assert chained(read(FORM, records), "s") == [item]


@pytest.mark.parametrize(("item", "messages"), SAID)
def test_messages_of_others_are_entries_with_the_blocks_of_the_api(
    item: dict[str, Any], messages: list[dict[str, Any]]
) -> None:
    records = stored(NewMessage(message=message) for message in messages)

    blocks = [block for found in read(FORM, records) for block in blocks_of(found.item)]

    without = [{name: value for name, value in block.items() if name != "is_error"} for block in blocks_of(item)]
    assert blocks == [block for block in without if block["type"] != "thinking"]


def blocks_of(item: dict[str, Any]) -> list[Block]:
    content = item["message"]["content"]
    return [text(content)] if isinstance(content, str) else content


@pytest.mark.parametrize("item", UNSAID)
def test_what_is_no_part_of_the_conversation_is_an_aside(item: dict[str, Any]) -> None:
    [record] = stored(written(FORM, item))

    assert record.aside == "claude"
    assert chained(read(FORM, [record]), "s") == [item]


def test_people_see_thinking_and_models_of_others_do_not() -> None:
    [record] = stored(written(FORM, entry("assistant", [THINKING])))

    assert (record.message["reasoning_content"], record.aside) == ("It asks for weather.", "claude")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "system", "content": "Be brief."},
        {"role": "assistant", "content": None},
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
    ],
)
def test_what_the_api_does_not_take_in_a_transcript_is_passed_by(message: dict[str, Any]) -> None:
    assert read(FORM, stored([NewMessage(message=message)])) == []


@pytest.mark.parametrize(
    ("arguments", "given"),
    [("", {}), ("[1]", {"arguments": [1]}), ("{", {"arguments": "{"}), (None, {}), ('{"a": 1}', {"a": 1})],
)
def test_arguments_of_others_are_always_an_object(arguments: Any, given: dict[str, Any]) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": arguments}}
    [record] = stored([NewMessage(message={"role": "assistant", "content": None, "tool_calls": [call]})])

    [found] = read(FORM, [record])

    assert found.item["message"]["content"] == [{"type": "tool_use", "id": "c1", "name": "add", "input": given}]


def test_an_edit_of_another_program_shows_through() -> None:
    reply, answers = entry("assistant", [text("Hello.")]), SAID[-1][0]
    records = stored([*written(FORM, reply), *written(FORM, answers)])

    records[0] = edited(records[0], {"role": "assistant", "content": "Good bye."})
    records[1] = edited(records[1], answered("toolu_1", "Rain"))

    assert chained(read(FORM, records), "s") == [
        entry("assistant", [text("Good bye.")]),
        entry("user", [answer("toolu_1", "Rain"), *answers["message"]["content"][1:]]),
    ]


def test_an_edit_into_another_shape_keeps_its_place_in_the_chain() -> None:
    own_id, next_id = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
    first, second = entry("assistant", [THINKING, text("a")], uuid=own_id), entry("user", "b", parentUuid=own_id)
    records = stored([*written(FORM, first), *written(FORM, {**second, "uuid": next_id})])
    records[0] = with_id(edited(records[0], {"role": "user", "content": "c"}), own_id)

    entries = chained(read(FORM, records), "s")

    assert [one["message"]["content"] for one in entries] == ["c", "b"]
    assert (entries[0]["uuid"], entries[1]["parentUuid"]) == (own_id, own_id)


def with_id(record: MessageRecord[Any], message_id: str) -> MessageRecord[Any]:
    values = {name: getattr(record, name) for name in MessageRecord.__match_args__}
    return MessageRecord(**{**values, "message_id": message_id})


def test_messages_of_others_follow_the_entry_before_them_and_the_next_prompt_follows_them() -> None:
    context = {"sessionId": "s", "cwd": "/srv", "isSidechain": True, "agentId": "a"}
    own = [
        entry("user", "Hi", uuid="1", **context),
        entry("user", "again", uuid="2", parentUuid="1", **context),
        entry("user", "late", uuid="3", parentUuid="2", **context),
    ]
    other = NewMessage[Any](message={"role": "assistant", "content": "Hello."})
    rows = [written(FORM, own[0]), [other], [other], written(FORM, own[1]), written(FORM, own[2])]

    entries = chained(read(FORM, stored([row for group in rows for row in group])), "other")

    assert [one["parentUuid"] for one in entries] == [None, *[one["uuid"] for one in entries[:-1]]]
    assert {name: entries[1][name] for name in context} == context
    assert (entries[0], entries[-1]) == (own[0], own[2])


def test_replies_of_others_in_a_row_are_one_for_the_cli() -> None:
    """Otherwise it sends each call alone, and misses the answer of all but the last."""
    calls = [{"role": "assistant", "content": None, "tool_calls": [{**CALLED, "id": call_id}]} for call_id in "ab"]
    messages = [*calls, answered("a", "1"), answered("b", "2"), *calls]
    own = entry("assistant", [text("Error")], isApiErrorMessage=True)
    own["message"] |= {"model": "<synthetic>", "id": "own"}
    others = [NewMessage[Any](message=message) for message in messages]
    records = stored([*written(FORM, own), *others])

    _, *ids = [one["message"].get("id") for one in chained(read(FORM, records), "s")]

    assert ids == [ids[0], ids[0], None, None, ids[4], ids[4]]
    assert len({"own", ids[0], ids[4]}) == 3


def test_an_answer_of_a_tool_stays_behind_its_call() -> None:
    own = [entry("assistant", [CALL], uuid="1"), entry("user", [answer("toolu_1", "Snow")], uuid="2", parentUuid="1")]
    other = NewMessage[Any](message={"role": "user", "content": "Wait!"})

    entries = chained(read(FORM, stored([*written(FORM, own[0]), other, *written(FORM, own[1])])), "s")

    assert (entries[0], entries[2]) == (own[0], own[1])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
texts = st.text(st.characters(codec=None), max_size=8)
sources = st.fixed_dictionaries(
    {"type": st.sampled_from(["base64", "url"])},
    optional=dict.fromkeys(("media_type", "data", "url"), texts | json_values),
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "tool_result", "thinking", "image", "document", "other"])},
    optional={
        **dict.fromkeys(("text", "id", "name", "tool_use_id", "thinking", "title"), texts | json_values),
        **dict.fromkeys(("input", "content"), texts | json_values),
        "source": sources | json_values,
        "is_error": st.booleans(),
    },
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "role": st.sampled_from(["user", "assistant"]) | json_values,
        "content": texts | st.lists(blocks, max_size=4) | json_values,
        "id": texts,
    },
)
items = st.fixed_dictionaries(
    {"type": st.sampled_from(["user", "assistant", "system", "other"])},
    optional={
        "message": messages | json_values,
        **dict.fromkeys(("isMeta", "isCompactSummary"), st.booleans() | json_values),
        **dict.fromkeys(("uuid", "parentUuid", "toolUseResult"), texts | json_values),
    },
)


said = st.builds(entry, st.sampled_from(["user", "assistant"]), st.lists(blocks, max_size=4))


def test_what_is_left_of_an_entry_with_a_deleted_part_is_read_part_by_part() -> None:
    answers = entry("user", [answer("toolu_1", "Snow"), answer("toolu_2", "Rain"), answer("toolu_3", "Sun")])
    rows = stored([*written(FORM, answers), *written(FORM, entry("user", "Thanks"))])

    found = read(FORM, [rows[0], *rows[2:]])

    said = [one.item["message"]["content"] for one in found]
    assert said == [[answer("toolu_1", "Snow")], [answer("toolu_3", "Sun")], "Thanks"]


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine makes few entries in a second
@given(st.lists(said | items | st.dictionaries(texts, json_values, max_size=3), max_size=4))
def test_every_entry_comes_back_equal(given_items: list[dict[str, Any]]) -> None:
    records = stored([row for item in given_items for row in written(FORM, item)])

    assert is_same(chained(read(FORM, records), "s"), given_items)
