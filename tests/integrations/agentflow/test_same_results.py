"""The checkpointer gives the results of the frameworks' in-memory one: both must pass."""

from __future__ import annotations

import itertools
import uuid
from typing import Any

import orjson
import pytest
from frameworks import Framework, need_frameworks

need_frameworks()


@pytest.fixture(params=["in memory", "ours"])
def checkpointer(request: pytest.FixtureRequest, words: Framework, make: Any) -> Any:
    return words.in_memory() if request.param == "in memory" else make(words)


def other(config: dict[str, Any]) -> dict[str, Any]:
    """Another thread of the same user."""
    return {**config, "thread_id": f"thread-{uuid.uuid4()}"}


def exactly(message: Any) -> bytes:
    """What tells 1 from 1.0 and True."""
    return orjson.dumps(message.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)


def conversation(words: Framework) -> list[Any]:
    """A message of each shape that the framework has."""
    m = words.messages
    usages = m.TokenUsages(completion_tokens=3, prompt_tokens=4, total_tokens=7, image_tokens=None)
    media = m.MediaRef(kind="data", data_base64="aGk=", mime_type="image/png", width=3)
    call = {"id": "call-1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    annotated = m.TextBlock(text="see there", annotations=[m.AnnotationRef(url="https://example.org", page=3)])
    return [
        words.message(role="system", content=[], message_id="empty"),
        words.text("Where is my order? Ünïcödé"),
        words.message(role="assistant", content=[], tools_calls=[call], reasoning="thinking", usages=usages),
        words.message(
            role="assistant", content=[m.TextBlock(text="let me see"), m.ToolCallBlock(id="c", name="f", args={"a": 1})]
        ),
        words.message(role="tool", content=[m.ToolResultBlock(call_id="call-1", output="rain", status="completed")]),
        words.message(role="tool", content=[m.ToolResultBlock(call_id="c", output={"deg": [1, 2.5]}, is_error=True)]),
        words.message(role="tool", content=[m.TextBlock(text="no call")]),
        words.message(role="user", content=[m.ImageBlock(media=m.MediaRef(url="https://example.org/a.png"))]),
        words.message(role="user", content=[m.TextBlock(text="look"), m.ImageBlock(media=media, alt_text="a cat")]),
        words.message(role="user", content=[annotated], metadata={"agentflow": 1, "deep": {"x": [None, True, 1.0]}}),
        words.message(
            role="assistant", content=[m.TextBlock(text="a"), m.TextBlock(text="b")], raw={"id": "r", "n": 1}
        ),
        words.message(
            role="assistant", content=[m.ErrorBlock(message="no", code="E", data={})], delta=True, timestamp=None
        ),
    ]


# --- States ---


async def test_a_state_is_read_back_equal(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    state = words.state(context=conversation(words), context_summary="so far")
    state.advance_step()

    assert await checkpointer.aput_state(config, state) == state

    assert await checkpointer.aget_state(config) == state


async def test_the_last_state_counts(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    for number in range(3):
        await checkpointer.aput_state(config, words.state(context_summary=str(number)))

    assert (await checkpointer.aget_state(config)).context_summary == "2"


async def test_there_is_no_state_at_first(checkpointer: Any, config: dict[str, Any]) -> None:
    assert await checkpointer.aget_state(config) is None
    assert await checkpointer.aget_state_cache(config) is None


async def test_a_cleared_state_is_gone(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    await checkpointer.aput_state(config, words.state())

    cleared = [await checkpointer.aclear_state(config) for _ in range(2)]

    assert cleared == [True, True]
    assert await checkpointer.aget_state(config) is None


async def test_a_draft_does_not_change_the_saved_state(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    await checkpointer.aput_state(config, words.state(context_summary="saved"))

    assert (await checkpointer.aput_state_cache(config, words.state(context_summary="step 1"))) is not None
    await checkpointer.aput_state_cache(config, words.state(context_summary="step 2"))

    assert (await checkpointer.aget_state_cache(config)).context_summary == "step 2"
    assert (await checkpointer.aget_state(config)).context_summary == "saved"


async def test_a_run_has_a_cached_state_before_its_first_checkpoint(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    await checkpointer.aput_state_cache(config, words.state(context_summary="step 1"))

    assert (await checkpointer.aget_state_cache(config)).context_summary == "step 1"
    assert await checkpointer.aget_state(config) is None


# --- Messages ---


async def test_messages_are_read_back_equal_in_their_order(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    said = conversation(words)

    assert await checkpointer.aput_messages(config, said[:5], {"source": "test"}) is True
    assert await checkpointer.aput_messages(config, said[5:]) is True
    assert await checkpointer.aput_messages(config, []) is True

    found = await checkpointer.alist_messages(config)
    assert found == said
    assert list(map(exactly, found)) == list(map(exactly, said))


async def test_a_part_of_the_messages_is_counted_from_the_first(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    said = [words.text(f"message {number}") for number in range(10)]
    await checkpointer.aput_messages(config, said)

    for offset, limit in itertools.product([None, 0, 2, 9, 50], [None, 0, 1, 3, 50]):
        found = await checkpointer.alist_messages(config, offset=offset, limit=limit)
        assert found == said[offset or 0 :][: limit or None]


async def test_messages_are_found_whatever_their_case(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    said = [words.text("Hello World"), words.text("nothing"), words.text("the WORLD again"), words.text("100% a_c")]
    await checkpointer.aput_messages(config, said)

    assert await checkpointer.alist_messages(config, "world") == [said[0], said[2]]
    assert await checkpointer.alist_messages(config, search="WORLD", offset=1, limit=1) == [said[2]]
    assert await checkpointer.alist_messages(config, search="") == said
    assert await checkpointer.alist_messages(config, search="0%") == [said[3]]
    assert await checkpointer.alist_messages(config, search="absent") == []


async def test_a_message_is_read_and_deleted_by_its_id(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    said = [words.text("one", message_id="m1"), words.text("two", message_id="m2")]
    await checkpointer.aput_messages(config, said)

    assert await checkpointer.aget_message(config, "m2") == said[1]
    assert await checkpointer.adelete_message(config, "m1") is True

    assert await checkpointer.alist_messages(config) == said[1:]
    with pytest.raises(IndexError):
        await checkpointer.aget_message(config, "m1")
    with pytest.raises(IndexError):
        await checkpointer.adelete_message(config, "m1")


async def test_threads_do_not_mix(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    elsewhere, message = other(config), words.text("hi", message_id="same")
    await checkpointer.aput_messages(config, [message])
    await checkpointer.aput_state(config, words.state())

    assert await checkpointer.alist_messages(elsewhere) == []
    assert await checkpointer.aget_state(elsewhere) is None
    with pytest.raises(IndexError):
        await checkpointer.aget_message(elsewhere, "same")


# --- Threads ---


async def test_a_thread_is_read_back(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    metadata = {"tags": ["a"], "n": 1.5, "agentflow": None, "odd": "\0"}
    given = words.thread_info(
        thread_id=config["thread_id"],
        thread_name="Refund",
        user_id=config["user_id"],
        metadata=metadata,
        run_id="run-1",
    )
    assert await checkpointer.aget_thread(config) is None

    assert await checkpointer.aput_thread(config, given) is True

    found = await checkpointer.aget_thread(config)
    assert found.model_dump(exclude={"updated_at"}) == given.model_dump(exclude={"updated_at"})


async def test_a_thread_is_changed(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    thread = {"thread_id": config["thread_id"], "user_id": config["user_id"]}
    await checkpointer.aput_thread(config, words.thread_info(**thread, thread_name="old", metadata={"a": 1}))

    await checkpointer.aput_thread(config, words.thread_info(**thread, thread_name="new", metadata={"b": 2}))

    found = await checkpointer.aget_thread(config)
    assert (found.thread_name, found.metadata, found.run_id) == ("new", {"b": 2}, None)


async def test_threads_are_listed(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    names = {f"Thread number {number}" for number in range(5)}
    for name in sorted(names):
        thread = other(config)
        info = words.thread_info(thread_id=thread["thread_id"], thread_name=name, user_id=config["user_id"])
        await checkpointer.aput_thread(thread, info)

    whole = [one.thread_name for one in await checkpointer.alist_threads(config)]
    part = [one.thread_name for one in await checkpointer.alist_threads(config, offset=1, limit=3)]
    [found] = await checkpointer.alist_threads(config, "NUMBER 3")

    assert set(whole) == names
    assert part == whole[1:4]
    assert found.thread_name == "Thread number 3"


async def test_threads_are_found_by_ids_name_and_metadata(
    checkpointer: Any, words: Framework, config: dict[str, Any]
) -> None:
    for number in range(5):
        thread = {**config, "thread_id": f"{config['thread_id']}-{number}"}
        known = {"thread_name": f"Refund {number}", "metadata": {"tags": [f"Tag-{number}"]}, "run_id": f"Run/{number}"}
        info = words.thread_info(thread_id=thread["thread_id"], user_id=config["user_id"], **known)
        await checkpointer.aput_thread(thread, info)

    async def found(search: str, **window: Any) -> set[str]:
        return {one.thread_name for one in await checkpointer.alist_threads(config, search, **window)}

    assert await found("REFUND 1") == {"Refund 1"}
    assert await found("tag-2") == {"Refund 2"}
    assert await found("'tags': ['Tag-2']") == {"Refund 2"}
    assert await found("run/3") == {"Refund 3"}
    assert await found(f"{config['thread_id']}-4".upper()) == {"Refund 4"}
    assert await found("absent") == set()
    assert len(await found(config["user_id"])) == 5
    assert len(await found("tag", offset=1, limit=3)) == 3
    assert len(await found("tag", offset=3, limit=3)) == 2


async def test_a_cleaned_thread_is_gone(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    info = words.thread_info(thread_id=config["thread_id"], user_id=config["user_id"])
    await checkpointer.aput_thread(config, info)

    cleaned = [await checkpointer.aclean_thread(config) for _ in range(2)]

    assert cleaned == [True, False]
    assert await checkpointer.aget_thread(config) is None
    assert await checkpointer.alist_threads(config) == []


# --- The same without an event loop ---


def test_every_call_has_a_synchronous_twin(checkpointer: Any, words: Framework, config: dict[str, Any]) -> None:
    state, message = words.state(context_summary="s"), words.text("hi", message_id="m")
    info = words.thread_info(thread_id=config["thread_id"], thread_name="T", user_id=config["user_id"])

    checkpointer.setup()
    assert checkpointer.put_state(config, state) == state
    assert checkpointer.get_state(config) == state
    assert checkpointer.put_state_cache(config, state) == state
    assert checkpointer.get_state_cache(config) == state
    assert checkpointer.clear_state(config) is True
    assert checkpointer.get_state(config) is None
    assert checkpointer.put_messages(config, [message]) is True
    assert checkpointer.get_message(config, "m") == message
    assert checkpointer.list_messages(config, limit=1) == [message]
    assert checkpointer.delete_message(config, "m") is True
    assert checkpointer.put_thread(config, info) is True
    assert checkpointer.get_thread(config).thread_name == "T"
    assert [one.thread_name for one in checkpointer.list_threads(config)] == ["T"]
    assert checkpointer.clean_thread(config) is True
    assert checkpointer.release() is True


def test_no_method_is_left_to_the_framework(words: Framework) -> None:
    [base] = [one for one in words.ours.__mro__ if one.__name__ == "BaseCheckpointer"]
    about_classes = {"bind_state_type", "state_type"}  # which the framework itself keeps
    offered = {name for name in vars(base) if not name.startswith("_")} - about_classes

    inherited = {name for name in offered if getattr(words.ours, name) is getattr(base, name)}

    assert len(offered) > 25
    assert inherited == set()
