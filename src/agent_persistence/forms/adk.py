"""Events of Google's Agent Development Kit, as ``Event.model_dump(mode="json", by_alias=False, exclude_none=True)``.

An event is a message, or several if it answers several tool calls. One that says nothing, such as a change of the
state, is an aside, and so is a summary of a compaction, which nobody has said.
"""

from __future__ import annotations

import json
import mimetypes
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, ClassVar, Final

from agent_persistence.forms.chats import calls_of, function_of, text_of
from agent_persistence.forms.form import Chat, Form, Item, Said

ASSISTANT: Final = "assistant"
"""The author of what a model said in another framework."""
_RESULT: Final = "result"
"""The field in which ADK puts an answer of a tool that is no JSON object."""
_BASE64: Final = re.compile("data:([^;,]+);base64,(.*)", re.DOTALL)
_TO_URL, _FROM_URL = str.maketrans("-_", "+/"), str.maketrans("+/", "-_")
_AUDIO: Final = {"audio/wav": "wav", "audio/mp3": "mp3", "audio/mpeg": "mp3"}


class ADKForm(Form):
    """Events of Google ADK, with contents in the shape of Gemini's API."""

    key: ClassVar[str] = "adk"

    def say(self, item: Item) -> Said:  # noqa: D102
        content = item.get("content")
        if not isinstance(content, Mapping):
            return Said(())
        parts = content.get("parts")
        found = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []
        spoken = [part for part in found if not part.get("thought")]
        chats = _say_reply(spoken) if _role_of(item) == "model" else _say_request(spoken)
        if not chats:
            return Said((), shown=_shown_thoughts(found))
        if _is_compaction(item):
            return Said((), shown=chats[0] if len(chats) == 1 else None)
        return Said(chats)

    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:  # noqa: ARG002, D102
        role, content = chat.get("role"), chat.get("content")
        if role in ("tool", "function"):
            return [_event(ASSISTANT, "user", [_response(chat)])]
        if role not in ("user", "assistant"):
            return []  # instructions are of the agent, and not in its events
        parts = [*_parts(content), *map(_function_call, calls_of(chat))]
        if not parts:
            return []
        return [_event("user", "user", parts) if role == "user" else _event(ASSISTANT, "model", parts)]

    def joined(self, items: Sequence[Item]) -> Item | None:  # noqa: D102
        if len(items) <= 1:
            return items[0] if items else None
        if any(item["content"]["role"] != "user" for item in items):
            return None
        return _event(items[0]["author"], "user", [part for item in items for part in item["content"]["parts"]])


def _event(author: str, role: str, parts: Sequence[Item]) -> Item:
    return {
        "author": author,
        "invocation_id": "",
        "content": {"role": role, "parts": list(parts)},
        "actions": {
            "state_delta": {},
            "artifact_delta": {},
            "requested_auth_configs": {},
            "requested_tool_confirmations": {},
        },
        "node_info": {"path": ""},
    }


def _role_of(item: Item) -> str:
    role = item["content"].get("role")
    if role in ("user", "model"):
        return str(role)
    return "user" if item.get("author") == "user" else "model"


def _is_compaction(item: Item) -> bool:
    actions = item.get("actions")
    return isinstance(actions, Mapping) and actions.get("compaction") is not None


def _say_request(parts: Sequence[Mapping[str, Any]]) -> list[Chat]:
    """Return the answers of tools and the messages of the user in their order."""
    chats: list[Chat] = []
    for is_answer, group in groupby(parts, key=_is_answer):
        if is_answer:
            chats += [_answer(part["function_response"]) for part in group]
        elif content := _content_of(list(group)):
            chats.append({"role": "user", "content": content})
    return chats


def _is_answer(part: Mapping[str, Any]) -> bool:
    response = part.get("function_response")
    return isinstance(response, Mapping) and isinstance(response.get("id"), str)


def _answer(response: Mapping[str, Any]) -> Chat:
    value = response.get("response")
    match value:
        case {"result": str(text), **others} if not others:
            content: Any = text
        case _:
            content = text_of(value)
    pictures = response.get("parts")
    shown = [part for part in map(_to_part, pictures if isinstance(pictures, list) else ()) if part is not None]
    if shown:
        content = [*([{"type": "text", "text": content}] if content else []), *shown]
    return {"role": "tool", "tool_call_id": response["id"], "content": content}


def _say_reply(parts: Sequence[Mapping[str, Any]]) -> list[Chat]:
    content, calls = _content_of(parts), [call for call in map(_call, parts) if call is not None]
    if calls:
        return [{"role": "assistant", "content": content, "tool_calls": calls}]
    return [{"role": "assistant", "content": content}] if content else []


def _call(part: Mapping[str, Any]) -> Chat | None:
    match part:
        case {"function_call": {"id": str(call_id), "name": str(name), **call}}:
            function = {"name": name, "arguments": text_of(call.get("args", {}))}
            return {"id": call_id, "type": "function", "function": function}
    return None


def _content_of(parts: Sequence[Mapping[str, Any]]) -> str | list[Chat] | None:
    """Return a plain text if the parts are one, parts of a message if they are more, ``None`` if they say nothing."""
    found = [part for part in map(_to_part, parts) if part is not None]
    match found:
        case []:
            return None
        case [{"type": "text", "text": str(text)}]:
            return text
    return found


def _shown_thoughts(parts: Sequence[Mapping[str, Any]]) -> Chat | None:
    texts = [part["text"] for part in parts if part.get("thought") and isinstance(part.get("text"), str)]
    text = "\n\n".join(texts)
    return {"role": "assistant", "content": "", "reasoning_content": text} if text else None


def _to_part(part: Any) -> Chat | None:
    """Return the chat-completions part for one of an event; ``None`` if there is none."""
    match part:
        case {"text": str(text)} if text:
            return {"type": "text", "text": text}
        case {"inline_data": {"mime_type": str(kind), "data": str(data), **blob}}:
            return _to_file(kind, data.translate(_TO_URL), blob.get("display_name"))
        case {"file_data": {"file_uri": str(url), "mime_type": str(kind)}} if kind.startswith("image/"):
            return {"type": "image_url", "image_url": {"url": url}}
    return None


def _to_file(kind: str, data: str, name: Any) -> Chat:
    url = f"data:{kind};base64,{data}"
    if kind.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    if kind in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO[kind]}}
    return {"type": "file", "file": {"file_data": url, **({"filename": name} if isinstance(name, str) else {})}}


def _parts(content: Any) -> list[Item]:
    parts = [content] if isinstance(content, str) else content or ()
    return [part for part in map(_from_part, parts) if part is not None]


def _from_part(part: Any) -> Item | None:
    """Return the part of an event for one of a message; ``None`` for a kind that Gemini's API does not take."""
    match part:
        case str(text) | {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return {"text": text} if text else None
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            kind = mimetypes.guess_type(url)[0] or "image/jpeg"  # Gemini's API demands one
            return _blob(url) or {"file_data": {"file_uri": url, "mime_type": kind}}
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": str(kind)}}:
            return {"inline_data": {"data": data.translate(_FROM_URL), "mime_type": f"audio/{kind}"}}
        case {"type": "file", "file": {"file_data": str(url), **file}}:
            return _blob(url, file.get("filename"))
    return None


def _blob(url: str, name: Any = None) -> Item | None:
    found = _BASE64.fullmatch(url)
    named = {"display_name": name} if isinstance(name, str) else {}
    return found and {"inline_data": {"data": found[2].translate(_FROM_URL), "mime_type": found[1], **named}}


def _function_call(call: Mapping[str, Any]) -> Item:
    function = function_of(call)
    arguments = _object_of(function.get("arguments"), "arguments")
    return {"function_call": {"id": str(call.get("id")), "name": str(function.get("name")), "args": arguments}}


def _response(chat: Chat) -> Item:
    parts = _parts(chat.get("content"))
    text = "".join(part["text"] for part in parts if "text" in part)
    pictures = [part for part in parts if "text" not in part]
    answer = {"id": str(chat.get("tool_call_id")), "response": _object_of(text, _RESULT)}
    return {"function_response": {**answer, **({"parts": pictures} if pictures else {})}}


def _object_of(text: Any, field: str) -> Any:
    """Return a text as the JSON object that it is, as Gemini's API demands; another one in a field."""
    if not text and field != _RESULT:
        return {}
    try:
        value = json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        value = text
    return value if isinstance(value, dict) else {field: text}
