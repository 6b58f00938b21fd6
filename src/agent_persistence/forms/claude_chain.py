"""Places messages of other programs in the chain of a transcript.

The CLI reads a transcript from its last entry back, from ``parentUuid`` to ``uuid``. A message without them would be
stored and not seen.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC
from typing import Any, Final

from agent_persistence.forms.form import Found, Item
from agent_persistence.records import MessageRecord

_NAMESPACE: Final = uuid.UUID("0c7c8f0a-6f0e-5d0b-8b50-2d6a7a3f9c11")
_LINKED: Final = ("user", "assistant", "system", "attachment", "progress")
"""The types of entries that are in the chain."""
_CONTEXT: Final = ("userType", "cwd", "version", "gitBranch", "isSidechain", "agentId", "sessionId")
"""What a message of another program takes over from the entry before it."""
_NO_MODEL: Final = "<synthetic>"
"""The CLI's own name for none: of such replies it counts no tokens."""
_NO_USAGE: Final = {"input_tokens": 0, "output_tokens": 0}


def chained(found: Sequence[Found], session_id: str) -> list[Item]:
    """Return the entries of a transcript.

    Own entries are returned as they were written, but for the user's next one after messages of other programs: it
    follows them. Other own entries do not, because an answer of a tool must follow its call.

    Args:
        found: the items of a thread.
        session_id: of entries that are made here.
    """
    entries: list[Item] = []
    last = last_own = {"sessionId": session_id, "isSidechain": False, "userType": "external"}
    for one in found:
        entry = one.item
        if not one.is_own:
            last = entry = _entry(one, last, reply=None if last is last_own else _reply_of(last))
        elif entry.get("type") in _LINKED and isinstance(entry.get("uuid"), str):
            is_interrupted = last is not last_own and entry.get("parentUuid") == last_own.get("uuid")
            if is_interrupted and _is_prompt(entry):
                entry = {**entry, "parentUuid": last["uuid"]}
            last = last_own = entry
        entries.append(entry)
    return entries


def _entry(one: Found, last: Item, reply: str | None) -> Item:
    record = one.records[0]
    own_id = _uuid_of(record)
    message = dict(one.item["message"])
    if message["role"] == "assistant":
        message |= {"id": reply or f"msg_{own_id}", "type": "message", "model": _NO_MODEL}
        message |= {"stop_reason": "end_turn", "usage": _NO_USAGE}
    return {
        **{name: last[name] for name in _CONTEXT if name in last},
        "type": one.item["type"],
        "uuid": own_id,
        "parentUuid": last.get("uuid"),
        "timestamp": record.created_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "message": message,
    }


def _reply_of(last: Item) -> str | None:
    """Return the id of the reply that a reply of another program continues; ``None`` after a message of the user.

    Some programs keep each call of a reply as a message. The CLI sends entries with the same id as one message; others
    it sends one by one, and then it misses the answers of all calls but the last.
    """
    found: str | None = last["message"].get("id")
    return found


def _uuid_of(record: MessageRecord[Any]) -> str:
    """Return the same UUID for a message each time: entries that follow it name it."""
    text = str(record.message_id)
    try:
        if str(uuid.UUID(text)) == text:
            return text  # that of an own entry which somebody has edited into another shape
    except ValueError:
        pass
    return str(uuid.uuid5(_NAMESPACE, f"{record.thread_id}/{text}"))


def _is_prompt(entry: Item) -> bool:
    if entry["type"] != "user":
        return False
    message = entry.get("message")
    content = message.get("content") if isinstance(message, dict) else None
    blocks = content if isinstance(content, list) else ()
    return not any(isinstance(block, dict) and block.get("type") == "tool_result" for block in blocks)
