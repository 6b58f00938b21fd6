"""Messages of Pydantic AI, as its own adapter of types writes them.

A ``ModelRequest`` is as many rows as it has parts that say something: instructions, prompts, and answers of tools. A
``ModelResponse`` is one. If only its model understands it (thoughts alone, calls of the provider's own tools), it is an
aside.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from agent_persistence.forms.chats import calls_of, function_of, text_of
from agent_persistence.forms.form import Chat, Form, Item, Said

_JSON: Final = "json"
"""The hint of a request whose tools answered with other values than texts."""
_AS_OTHERS: Final = re.compile("[tf]*c*")
"""Texts and files, then calls, as other programs write them; see ``_say_response``."""
_DATA: Final = re.compile("data:([^;,]+);base64,(.*)", re.DOTALL)
_FILES: Final = ("binary", "image-url", "uploaded-file")
_AUDIO: Final = {"audio/wav": "wav", "audio/mpeg": "mp3"}
_TO_PLAIN, _TO_URL_SAFE = str.maketrans("-_", "+/"), str.maketrans("+/", "-_")


class PydanticAIForm(Form):
    """Messages of Pydantic AI: ``ModelRequest`` and ``ModelResponse``."""

    key: ClassVar[str] = "pydantic_ai"

    def say(self, item: Item) -> Said:  # noqa: D102
        given = item.get("parts")
        parts = [part if isinstance(part, Mapping) else {} for part in given] if isinstance(given, list) else []
        match item.get("kind"):
            case "request":
                return _say_request(parts)
            case "response":
                return _say_response(parts)
        return Said(())

    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:  # noqa: D102
        match chat.get("role"):
            case "assistant":
                parts = _response_parts(chat, hint)
                return [] if parts is None else [{"kind": "response", "parts": parts}]
            case "tool" | "function":
                part = _answer(chat, hint)
            case "system" | "developer":
                part = {"part_kind": "system-prompt", "content": _text_in(chat.get("content"))}
            case "user":
                part = {"part_kind": "user-prompt", "content": _from_content(chat.get("content"))}
            case _:
                return []
        return [{"kind": "request", "parts": [part]}]

    def joined(self, items: Sequence[Item]) -> Item | None:  # noqa: D102
        if len(items) > 1 and all(item["kind"] == "request" for item in items):
            return {"kind": "request", "parts": [part for item in items for part in item["parts"]]}
        return super().joined(items)


def _say_request(parts: Sequence[Mapping[str, Any]]) -> Said:
    chats = [chat for chat in map(_say_part, parts) if chat is not None]
    answers = [part for part in parts if part.get("part_kind") == "tool-return"]
    return Said(chats, _JSON if any(not isinstance(part.get("content"), str) for part in answers) else None)


def _say_part(part: Mapping[str, Any]) -> Chat | None:
    """Return the message that says what a part of a request says; ``None`` if it says nothing."""
    match part:
        case {"part_kind": "system-prompt", "content": str(text)} if text:
            return {"role": "system", "content": text}
        case {"part_kind": "user-prompt", "content": content}:
            said = _to_content(content)
            return {"role": "user", "content": said} if said else None
        case {"part_kind": "tool-return" | "retry-prompt", "tool_name": str(), "tool_call_id": str(call_id)}:
            return {"role": "tool", "tool_call_id": call_id, "content": _to_answer(part.get("content"))}
        case {"part_kind": "retry-prompt", "content": content}:
            return {"role": "user", "content": _to_answer(content)}
        case {"part_kind": "speech", "transcript": str(text)} if text:
            return {"role": "user", "content": text}
    return None


def _to_content(content: Any) -> str | list[Chat]:
    if isinstance(content, str):
        return content
    found = [_to_part(one) for one in content] if isinstance(content, list) else []
    return [part for part in found if part is not None]


def _to_answer(content: Any) -> str | list[Chat]:
    """Return what a tool answered: a text as it is, files as parts, any other value as JSON text."""
    values = content if isinstance(content, list) else [content]
    if any(isinstance(value, Mapping) and value.get("kind") in _FILES for value in values):
        parts = [_to_part(value) for value in values]
        if None not in parts:
            return [part for part in parts if part is not None]
    return content if isinstance(content, str) else text_of(content)


def _to_part(value: Any) -> Chat | None:
    """Return the chat-completions part for a piece of content; ``None`` if there is none."""
    match value:
        case str(text) | {"kind": "text-content" | "structured-content", "content": str(text)} if text:
            return {"type": "text", "text": text}
        case {"kind": "image-url", "url": str(url)}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"kind": "uploaded-file", "file_id": str(file_id)}:
            return {"type": "file", "file": {"file_id": file_id}}
        case {"kind": "binary", "media_type": str(kind), "data": str(data)}:
            return _to_file(kind, data.translate(_TO_PLAIN))
    return None


def _to_file(media_type: str, data: str) -> Chat:
    if media_type in _AUDIO:
        return {"type": "input_audio", "input_audio": {"data": data, "format": _AUDIO[media_type]}}
    url = f"data:{media_type};base64,{data}"
    if media_type.startswith("image/"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def _say_response(parts: Sequence[Mapping[str, Any]]) -> Said:
    """Return one message, and as its hint a letter for each part.

    ``t`` a text, ``f`` a file, ``c`` a call whose arguments are a text, ``d`` one whose are an object, ``n`` one
    without, ``k`` a thought, ``x`` what is not said.
    """
    letters, content, calls, thoughts = "", [], [], []
    for part in parts:
        letter, said = _say_response_part(part)
        letters += letter
        if letter in "tf":
            content.append(said)
        elif letter in "cdn":
            calls.append(said)
        elif letter == "k":
            thoughts.append(said)
    thinking = {"reasoning_content": "\n\n".join(thoughts)} if thoughts else {}
    if not content and not calls:
        return Said((), shown={"role": "assistant", "content": "", **thinking} if thinking else None)
    is_text = [part["type"] for part in content] == ["text"]
    chat: Chat = {"role": "assistant", "content": content[0]["text"] if is_text else content or None, **thinking}
    if calls:
        chat["tool_calls"] = calls
    return Said([chat], None if _AS_OTHERS.fullmatch(letters) else letters)


def _say_response_part(part: Mapping[str, Any]) -> tuple[str, Any]:
    match part:
        case {"part_kind": "text", "content": str(text)} if text:
            return "t", {"type": "text", "text": text}
        case {"part_kind": "speech", "transcript": str(text)} if text:
            return "t", {"type": "text", "text": text}
        case {"part_kind": "file", "content": content} if (said := _to_part(content)) is not None:
            return "f", said
        case {"part_kind": "thinking", "content": str(text)} if text:
            return "k", text
        case {"part_kind": "tool-call", "tool_name": str(name), "tool_call_id": str(call_id)}:
            args = part.get("args")
            arguments = args if isinstance(args, str) else text_of(args or {})
            function = {"name": name, "arguments": arguments}
            letter = "c" if isinstance(args, str) else "n" if args is None else "d"
            return letter, {"id": call_id, "type": "function", "function": function}
    return "x", None


def _response_parts(chat: Chat, letters: str | None) -> list[Item] | None:
    """Return the parts of a response; ``None`` if the message has others than its letters say."""
    content, calls = _pieces(chat.get("content")), calls_of(chat)
    if letters is None:
        parts = [part for part in map(_response_part, content) if part is not None]
        return [*parts, *(_call(call, "c") for call in calls)]
    try:
        return list(_parts_of_letters(letters, iter(content), iter(calls), chat.get("reasoning_content")))
    except (StopIteration, RuntimeError, ValueError):  # somebody has edited it
        return None


def _parts_of_letters(
    letters: str, content: Iterator[Any], calls: Iterator[Mapping[str, Any]], thinking: Any
) -> Iterator[Item]:
    for letter in letters:
        if letter in "tf":
            yield _response_part(next(content)) or {}
        elif letter in "cdn":
            yield _call(next(calls), letter)
        elif letter == "k":
            yield {"part_kind": "thinking", "content": thinking if letters.count("k") == 1 else ""}
        else:
            yield {}  # all of it is in the rest


def _pieces(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [content] if content else []
    return content if isinstance(content, list) else []


def _response_part(piece: Any) -> Item | None:
    value = _from_part(piece)
    if isinstance(value, str):
        return {"part_kind": "text", "content": value}
    return {"part_kind": "file", "content": value} if value is not None and value["kind"] == "binary" else None


def _call(call: Mapping[str, Any], letter: str) -> Item:
    function = function_of(call)
    args = function.get("arguments")
    if letter == "d":
        args = json.loads(str(args))
    elif not isinstance(args, str):
        args = text_of(args)
    said = {"part_kind": "tool-call", "tool_name": str(function.get("name")), "tool_call_id": str(call.get("id"))}
    return said if letter == "n" else {**said, "args": args}


def _answer(chat: Chat, hint: str | None) -> Item:
    content = _from_content(chat.get("content"))
    if hint == _JSON and isinstance(content, str):
        with suppress(ValueError, RecursionError):  # a text among answers of other kinds
            content = json.loads(content)
    said = {"part_kind": "tool-return", "tool_call_id": str(chat.get("tool_call_id")), "content": content}
    return {**said, "tool_name": str(chat.get("name") or "unknown"), "outcome": "success"}


def _from_content(content: Any) -> str | list[Any]:
    if isinstance(content, list):
        return [value for value in map(_from_part, content) if value is not None]
    return content if isinstance(content, str) else ""


def _text_in(content: Any) -> str:
    return "\n\n".join(value for value in map(_from_part, _pieces(content)) if isinstance(value, str))


def _from_part(part: Any) -> Any:
    """Return the piece of content for a chat-completions part; ``None`` for a kind that Pydantic AI lacks."""
    match part:
        case str(text) | {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return text or None
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return _binary(url) or {"kind": "image-url", "url": url}
        case {"type": "file", "file": {"file_data": str(url)}}:
            return _binary(url)
        case {"type": "input_audio", "input_audio": {"data": str(data), "format": "wav" | "mp3" as kind}}:
            media_type = "audio/wav" if kind == "wav" else "audio/mpeg"
            return {"kind": "binary", "media_type": media_type, "data": data.translate(_TO_URL_SAFE)}
    return None


def _binary(url: str) -> Item | None:
    found = _DATA.fullmatch(url)
    return found and {"kind": "binary", "media_type": found[1], "data": found[2].translate(_TO_URL_SAFE)}
