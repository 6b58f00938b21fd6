"""Entries of a transcript, as the CLI writes them."""

from __future__ import annotations

import uuid
from typing import Any


class Transcript:
    """Makes entries that follow one another.

    Attributes:
        session_id: of the session.
        last: the ``uuid`` of the last one.
    """

    def __init__(self, last: str | None = None) -> None:
        self.session_id = str(uuid.uuid4())
        self.last = last

    def entry(self, role: str, content: Any, **more: Any) -> dict[str, Any]:
        """Return an entry of a user or an assistant that follows the last one."""
        entry = self.linked({"type": role, "message": {"role": role, "content": content}, **more})
        if role == "assistant":
            entry["message"] |= {"id": f"msg_{entry['uuid']}", "type": "message", "model": "claude-opus-4-5"}
            entry["message"] |= {"stop_reason": None, "usage": {"input_tokens": 7, "output_tokens": 1}}
        return entry

    def linked(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return any entry with the fields of all, following the last one."""
        made = {
            "parentUuid": self.last,
            "isSidechain": False,
            "userType": "external",
            "cwd": "/srv/app",
            "sessionId": self.session_id,
            "version": "2.1.0",
            "gitBranch": "main",
            "uuid": str(uuid.uuid4()),
            "timestamp": "2026-11-30T12:00:00.000Z",
            **entry,
        }
        self.last = made["uuid"]
        return made


def say(text: str) -> dict[str, Any]:
    """Return a block of text."""
    return {"type": "text", "text": text}


def use(call_id: str, **arguments: Any) -> dict[str, Any]:
    """Return a block that calls a tool."""
    return {"type": "tool_use", "id": call_id, "name": "weather", "input": arguments}


def result(call_id: str, content: Any, **more: Any) -> dict[str, Any]:
    """Return a block that answers a call."""
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **more}


def a_transcript() -> list[dict[str, Any]]:
    """Return a transcript with entries of many kinds."""
    made = Transcript()
    return [
        {"type": "queue-operation", "operation": "enqueue", "timestamp": "2026-11-30T12:00:00.000Z"},
        made.entry("user", "Snow in Oslo and Rome?"),
        made.entry("assistant", [{"type": "thinking", "thinking": "Two cities.", "signature": "c2ln"}]),
        made.entry("assistant", [say("I look.")]),
        made.entry("assistant", [use("toolu_1", city="Oslo")]),
        made.entry("assistant", [use("toolu_2", city="Rome", days=1.0)]),
        made.entry("user", [result("toolu_1", "Snow"), result("toolu_2", [say("no city")], is_error=True)]),
        made.linked({"type": "system", "subtype": "turn_duration", "durationMs": 7}),
        made.entry("assistant", [say("In Oslo.")]),
        made.entry("user", "<local-command-caveat>", isMeta=True),
        {"type": "custom-title", "customTitle": "Weather \0", "sessionId": made.session_id},
    ]
