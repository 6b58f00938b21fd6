"""The conversation of all frameworks as the Claude Agent SDK writes and reads it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from integrations.claude_agent.entries import Transcript, result, say, use
from integrations.conversations import ASTRONAUT, CAT, PNG, Said, without_nul

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.persistence import Persistence


def _claude_conversation() -> list[dict[str, Any]]:
    made = Transcript()
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    return [
        made.entry("user", "Snow in Oslo and Rome?"),
        made.entry("assistant", [{"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"}]),
        made.entry("assistant", [say("I look.")]),
        made.entry("assistant", [use("call_1", city="Oslo")]),
        made.entry("assistant", [use("call_2", city="Rome")]),
        made.entry("user", [result("call_1", "Snow"), result("call_2", "no such city", is_error=True)]),
        made.entry("assistant", [say("Only in Oslo.")]),
        made.entry("user", [say("What is this?"), png]),
        made.linked({"type": "system", "subtype": "turn_duration"}),
        made.entry("assistant", [say(CAT)]),
        made.entry("user", [say(ASTRONAUT)]),
        made.entry("assistant", [say("And this: \ue000?")]),
        made.entry("user", "half\0half"),
        made.entry("assistant", [use("call_3")]),
        made.entry("user", [result("call_3", [say("Map:"), png])]),
        made.entry("assistant", [say("Bye.")]),
        {"type": "custom-title", "customTitle": "Weather"},
    ]


class Claude:
    """The Claude Agent SDK: entries of a transcript."""

    CONVERSATION: ClassVar = _claude_conversation()
    MORE: ClassVar = [Transcript().entry("user", "More?")]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._store = PersistenceSessionStore(persistence=persistence, user_id=user_id, scoped=False)
        self._key: Any = {"project_key": "p", "session_id": thread_id}

    async def write(self, items: list[Any]) -> None:
        await self._store.append(self._key, items)

    async def read(self) -> list[Said]:
        entries: list[Any] = await self._store.load(self._key) or []
        return [said for entry in entries if "message" in entry for said in _of_message(**entry["message"])]


def _of_message(role: str, content: Any, **_: Any) -> Iterator[Said]:
    for block in [say(content)] if isinstance(content, str) else content:
        match block["type"]:
            case "text" | "image":
                yield role, *_of_block(block)
            case "tool_use":
                yield role, "call", block["id"], block["name"], block["input"]
            case "tool_result":
                answer = block["content"]
                parts = [say(answer)] if isinstance(answer, str) else answer
                yield "tool", block["tool_use_id"], *map(_of_block, parts)


def _of_block(block: dict[str, Any]) -> tuple[str, str]:
    if block["type"] == "text":
        return "text", without_nul(block["text"])
    source = block["source"]
    return "picture", f"data:{source['media_type']};base64,{source['data']}"
