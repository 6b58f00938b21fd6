"""Values that a framework's message, state or result may hold are read back equal, or refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from frameworks import Framework, need_frameworks

from agent_persistence.errors import InvalidInputError
from conftest import MakeCheckpointer

need_frameworks()


def _cyclic(kind: type[Any]) -> Any:
    made = kind()
    if isinstance(made, dict):
        made["self"] = made
    else:
        made.append(made)
    return made


def _deep(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "NUL": "a\0b",
    "lone surrogate": "a\ud800b",
    "escape": "\ue000i7",
    "escaped": {"__escaped__": {"a": "\ue000f"}},
    "NaN": float("nan"),
    "infinity": float("-inf"),
    "huge int": 10**30,
    "endless int": 10**5_000,
    "deep": _deep(100),
    "too deep": _deep(300),
    "much too deep": _deep(5_000),
    "cyclic list": _cyclic(list),
    "cyclic dict": _cyclic(dict),
    "tuple": (1, 2),
    "set": {1},
    "bytes": b"\xff",
    "int key": {1: 2},
    "object": object(),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("place", ["metadata", "output", "call", "raw", "state", "draft", "result", "value", "thread"])
async def test_a_value_is_read_back_or_refused_by_name(
    words: Framework, make: MakeCheckpointer, config: dict[str, Any], place: str, name: str
) -> None:
    checkpointer, value = make(words), VALUES[name]
    said = message_with(words, place, value)
    state = words.state(context=[said])
    state.execution_meta.internal_data["x"] = value

    try:
        match place:
            case "state":
                await checkpointer.aput_state(config, state)
                assert await checkpointer.aget_state(dict(config)) is not None
            case "draft":
                if await checkpointer.aput_state_cache(config, state):
                    assert await checkpointer.aget_state_cache(dict(config)) is not None
            case "result" if words.name == "agentflow":
                await checkpointer.aput_tool_result(config, "c", {"x": value})
                assert await checkpointer.aget_tool_result(config, "c") is not None
            case "value":
                if await checkpointer.aput_cache_value("n", config["thread_id"], value) is not None:
                    assert await checkpointer.aget_cache_value("n", config["thread_id"]) is not None or name == "NaN"
            case "thread":
                info = words.thread_info(thread_id=config["thread_id"], metadata={"x": value})
                await checkpointer.aput_thread(config, info)
                assert await checkpointer.aget_thread(config) is not None
            case _:
                await checkpointer.aput_messages(config, [said])
                [read] = await checkpointer.alist_messages(config)
                assert read.model_dump(mode="json", include={place}) == said.model_dump(mode="json", include={place})
    except InvalidInputError as refusal:
        assert name not in {"NUL", "lone surrogate", "escape", "escaped", "NaN", "infinity", "huge int", "deep"}
        assert refusal.field  # noqa: PT017 - one of two outcomes
        assert await checkpointer.aget_state(dict(config)) is None
        assert await checkpointer.alist_messages(config) == []


def message_with(words: Framework, place: str, value: Any) -> Any:
    """Return a message that holds the value in this place, if it is one of a message."""
    said = words.text("hello", "assistant", "m")
    match place:
        case "metadata":
            said.metadata = {"x": value}
        case "output":
            block = words.messages.ToolResultBlock(call_id="c", output={"x": value})
            return words.message(role="tool", message_id="m", content=[block])
        case "call":
            said.tools_calls = [{"id": "c", "args": value}]
        case "raw":
            said.raw = {"x": value}
    return said
