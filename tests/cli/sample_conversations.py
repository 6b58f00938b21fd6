"""Conversations with everything that could get lost on the way, and helpers to read files of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Conversation = dict[str, Any]

WEATHER: Conversation = {
    "id": "weather",
    "source": "handmade",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Ürümqi? ☀️👩‍🔬", "name": "li"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Ürümqi"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"celsius": -3.5}'},
        {"role": "assistant", "content": "Cold: -3.5 °C.", "refusal": None, "score": 0.1},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": ""},
    ],
}
PARTS: Conversation = {
    "id": "a/b:c d",
    "source": None,
    "tags": ["kept", {"as": "it was"}],
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "See:"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"role": "developer", "content": "\u001b[31m[bold]\u202e", "numbers": [1e23, 1e-7, -0.0, 0.1, 2**53, 10.0, 10]},
    ],
}
EMPTY: Conversation = {"id": "x" * 300, "source": "an id that is too long for a thread", "messages": []}
LONG: Conversation = {
    "id": "long",
    "messages": [{"role": "user" if place % 2 else "assistant", "content": f"{place}\n"} for place in range(500)],
}
SAMPLE = [WEATHER, PARTS, EMPTY, LONG]


def write_lines(path: Path, conversations: list[Conversation]) -> Path:
    path.write_bytes(b"".join(as_line(conversation) for conversation in conversations))
    return path


def as_line(conversation: Conversation) -> bytes:
    return json.dumps(conversation).encode() + b"\n"


def read_lines(path: Path) -> list[Conversation]:
    with path.open("rb") as lines:
        return [json.loads(line) for line in lines]


def exact(conversations: list[Conversation]) -> list[str]:
    """What tells 10 from 10.0 and -0.0 from 0.0, which compare equal, and is blind to the order of keys."""
    return [json.dumps(conversation, sort_keys=True) for conversation in conversations]
