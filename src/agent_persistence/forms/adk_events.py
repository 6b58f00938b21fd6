"""Events that ADK reads of messages of other frameworks: with the ids, times and names of tools that those lack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_persistence.forms.adk import ASSISTANT
from agent_persistence.forms.form import Found, Item
from agent_persistence.records import MessageRecord


def events_of(found: Sequence[Found], author: str) -> list[Item]:
    """Return events that ADK takes: its own as they were, and those of other frameworks' messages completed.

    A message of another framework is an event of the same id each time it is read. An answer of a tool gets the name
    of the tool from its call, because Gemini's API demands it.

    Args:
        found: what was read of a thread.
        author: of what a model said in other frameworks.
    """
    names: dict[str, str] = {}
    events: list[Item] = []
    for one in found:
        event = one.item if one.is_own else _completed(one.item, one.records[0], author, names)
        names.update(_names_of_calls(event))
        events.append(event)
    return events


def _completed(event: Item, record: MessageRecord[Any], author: str, names: dict[str, str]) -> Item:
    content = event["content"]
    return {
        **event,
        "id": str(record.message_id),
        "timestamp": record.created_at.timestamp(),
        "author": author if event["author"] == ASSISTANT else event["author"],
        "content": {**content, "parts": [_named(part, names) for part in content["parts"]]},
    }


def _named(part: Item, names: dict[str, str]) -> Item:
    response = part.get("function_response")
    if response is None or response["id"] not in names:
        return part
    return {"function_response": {**response, "name": names[response["id"]]}}


def _names_of_calls(event: Item) -> dict[str, str]:
    """Return the names of the tools that an event calls, by the ids of the calls."""
    content = event.get("content") or {}
    calls = [part["function_call"] for part in content.get("parts") or () if part.get("function_call")]
    return {call["id"]: call["name"] for call in calls if call.get("id") and call.get("name")}
