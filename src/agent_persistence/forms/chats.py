"""What forms read of messages in the chat-completions shape, whoever wrote them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import orjson

from agent_persistence.forms.form import Chat


def calls_of(chat: Chat) -> list[Mapping[str, Any]]:
    """Return the tool calls of a message."""
    calls = chat.get("tool_calls")
    return [call for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []


def function_of(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the function of a tool call, with its name and arguments; empty if there is none."""
    function = call.get("function")
    return function if isinstance(function, Mapping) else {}


def text_of(value: Any) -> str:
    """Return a value as JSON text; nothing as an empty one."""
    if value is None:
        return ""
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # a lone surrogate, or an integer of more than 64 bits
        return json.dumps(value, separators=(",", ":"))


def texts_in(part: Mapping[str, Any], *names: str) -> dict[str, str]:
    """Return those of the named fields that are texts."""
    return {name: part[name] for name in names if isinstance(part.get(name), str)}
