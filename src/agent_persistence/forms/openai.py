"""Items of the Responses API, as the OpenAI Agents SDK keeps them in a session.

One item is one row. Reasoning is an aside: it belongs to the model that made it, whose API refuses that of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from agent_persistence.forms.chats import calls_of, function_of, text_of, texts_in
from agent_persistence.forms.form import Chat, Form, Item, Said

_ROLES: Final = ("user", "assistant", "system", "developer")
_TEXTS: Final = ("input_text", "output_text", "text")
_ONE_TEXT: Final = "part"
"""The hint of a message whose text is a part: other programs read it as a plain text."""
_OUTPUT: Final = "output"
"""The hint of a message as the API returns it."""
_CALL: Final = "call"
"""The hint of a call: an edit that makes a text of it must not get the call's id."""


class OpenAIForm(Form):
    """Items of OpenAI's Responses API."""

    key: ClassVar[str] = "openai"

    def say(self, item: Item) -> Said:  # noqa: D102
        kind = item.get("type")
        speak = _SPEAKERS.get("message" if kind is None else kind) if isinstance(kind, str | None) else None
        return Said(()) if speak is None else speak(item)

    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:  # noqa: D102
        if chat.get("role") in ("tool", "function"):
            return [_answer(chat)]
        calls = [_call(call) for call in calls_of(chat)]
        if hint == _CALL:
            return calls
        said = _message(chat, hint)
        return calls if said is None else [said, *calls]


def without_last(chat: Chat) -> Chat:
    """Return a message of several items without the last one: its last tool call."""
    calls = calls_of(chat)[:-1]
    rest = {name: value for name, value in chat.items() if name != "tool_calls"}
    return {**rest, "tool_calls": calls} if calls else rest


def _say_message(item: Item) -> Said:
    role, content = item.get("role"), item.get("content")
    if role not in _ROLES:
        return Said(())
    if isinstance(content, str):
        return Said([{"role": role, "content": content}]) if content else Said(())
    parts = [part for part in map(_to_part, content if isinstance(content, list) else ()) if part is not None]
    hint = _OUTPUT if item.get("type") == "message" and role == "assistant" else _ONE_TEXT
    match parts:
        case []:
            return Said(())
        case [{"type": "text", "text": text}] if isinstance(content, list) and len(content) == 1:
            return Said([{"role": role, "content": text}], hint)
    return Said([{"role": role, "content": parts}], hint)


def _say_call(item: Item) -> Said:
    match item:
        case {"call_id": str(call_id), "name": str(name), "arguments": str(arguments)}:
            function = {"name": name, "arguments": arguments}
            call = {"id": call_id, "type": "function", "function": function}
            return Said([{"role": "assistant", "content": None, "tool_calls": [call]}], _CALL)
    return Said(())


def _say_answer(item: Item) -> Said:
    call_id, output = item.get("call_id"), item.get("output")
    if not isinstance(call_id, str):
        return Said(())
    content: Any = output if isinstance(output, str) else text_of(output)
    if isinstance(output, list):
        parts = [part for part in map(_to_part, output) if part is not None]
        content = parts if parts and len(parts) == len(output) else content
    return Said([{"role": "tool", "tool_call_id": call_id, "content": content}])


def _say_reasoning(item: Item) -> Said:
    summary = item.get("summary")
    texts = [part.get("text") for part in summary if isinstance(part, Mapping)] if isinstance(summary, list) else []
    text = "\n\n".join(text for text in texts if isinstance(text, str))
    return Said((), shown={"role": "assistant", "content": "", "reasoning_content": text} if text else None)


_SPEAKERS: Final[Mapping[Any, Callable[[Item], Said]]] = {
    "message": _say_message,
    "function_call": _say_call,
    "function_call_output": _say_answer,
    "reasoning": _say_reasoning,
}


def _to_part(part: Any) -> Chat | None:
    """Return the chat-completions part for one of an item; ``None`` if there is none."""
    match part:
        case {"type": kind, "text": str(text)} if kind in _TEXTS:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "refusal", "refusal": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url, **texts_in(part, "detail")}}
        case {"type": "input_audio", "input_audio": {}}:
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case {"type": "input_file", "file_id": str()} | {"type": "input_file", "file_data": str()}:
            return {"type": "file", "file": texts_in(part, "file_id", "file_data", "filename")}
    return None


def _message(chat: Chat, hint: str | None) -> Item | None:
    """Return the message that a chat message says beside its tool calls; ``None`` if it says nothing else."""
    role, content = chat["role"], chat.get("content")
    if not content:
        return None
    kind = "output_text" if role == "assistant" else "input_text"
    if isinstance(content, str):
        if hint is None:
            return {"role": role, "content": content}
        content = [{"type": "text", "text": content}]
    parts = [_from_part(part, kind) for part in content]
    said = {"role": role, "content": [part for part in parts if part is not None]}
    if hint == _OUTPUT:
        for part in said["content"]:
            if part["type"] == "output_text":
                part |= {"annotations": [], "logprobs": []}
        return {"type": "message", "status": "completed", **said}
    return said if said["content"] else None


def _from_part(part: Any, kind: str) -> Chat | None:
    """Return the part of an item for one of a message; ``None`` for a kind that the API does not take.

    Args:
        kind: of texts.
    """
    match part:
        case str(text) | {"type": "text", "text": str(text)}:
            return {"type": kind, "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "refusal", "refusal": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "input_image", "image_url": url, **texts_in(part["image_url"], "detail")}
        case {"type": "input_audio", "input_audio": {}}:
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        case {"type": "file", "file": {}}:
            return {"type": "input_file", **texts_in(part["file"], "file_id", "file_data", "filename")}
    return None


def _call(call: Mapping[str, Any]) -> Item:
    function = function_of(call)
    arguments = function.get("arguments")
    return {
        "type": "function_call",
        "call_id": str(call.get("id")),
        "name": str(function.get("name")),
        "arguments": arguments if isinstance(arguments, str) else text_of(arguments),
    }


def _answer(chat: Chat) -> Item:
    content = chat.get("content")
    output: Any = content if isinstance(content, str) else ""
    if isinstance(content, list):
        output = [part for part in (_from_part(part, "input_text") for part in content) if part is not None]
    return {"type": "function_call_output", "call_id": str(chat.get("tool_call_id")), "output": output}
