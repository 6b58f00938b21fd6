"""The blocks of LangChain's messages as parts of the chat-completions shape, and back.

LangChain passes on the blocks of every provider, and has blocks of its own. A block that says the same as a part is
named in the hint of its message, so that the part alone brings it back: a picture is not stored twice. A block that no
part can say is a part as it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from agent_persistence.forms.base64_urls import base64_url, media_of
from agent_persistence.forms.chats import text_of
from agent_persistence.forms.form import Chat

_SAME: Final = "="
"""The name of a block that is a part as it is."""
_TEXT: Final = "text"
_ANSWER: Final = "tool_result"
_REASONING: Final = ("thinking", "reasoning")
_CALLS: Final = {"tool_use": ("id", "input"), "tool_call": ("id", "args"), "function_call": ("call_id", "arguments")}
"""The blocks that repeat a call, and the names that they have for its id and its arguments."""
_SILENT: Final = frozenset({*_REASONING, *_CALLS, _ANSWER, "redacted_thinking", "tool_call_chunk", "input_json_delta"})
"""The blocks of which a message tells elsewhere, or nothing."""
_BARE: Final = "bare"
"""The name of a text that is no object."""
_SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "image_url": {"type": "image_url", "image_url": "$url"},
    "image.source.url": {"type": "image", "source": {"type": "url", "url": "$url"}},
    "image.source.data": {"type": "image", "source": {"type": "base64", "media_type": "$mime", "data": "$data"}},
    "image.source_type.url": {"type": "image", "source_type": "url", "url": "$url"},
    "image.source_type.data": {"type": "image", "source_type": "base64", "mime_type": "$mime", "data": "$data"},
    "image.url": {"type": "image", "url": "$url"},
    "image.data": {"type": "image", "base64": "$data", "mime_type": "$mime"},
    "document.source.data": {"type": "document", "source": {"type": "base64", "media_type": "$mime", "data": "$data"}},
    "file.source_type.data": {"type": "file", "source_type": "base64", "mime_type": "$mime", "data": "$data"},
    "file.data": {"type": "file", "base64": "$data", "mime_type": "$mime"},
}
"""The blocks of pictures and files that have a part: Anthropic's, and those of two versions of LangChain."""
_SEPARATOR: Final = ","


class Content(NamedTuple):
    """What the content of a message says.

    Attributes:
        said: a text, or parts.
        hint: names the blocks; ``None`` where the parts are the blocks.
        reasoning: the text of its reasoning.
        calls: the blocks that call tools, as LangChain's calls.
        answers: the answers of tools among the blocks, as messages.
    """

    said: str | list[Any]
    hint: str | None = None
    reasoning: str = ""
    calls: Sequence[Mapping[str, Any]] = ()
    answers: Sequence[Chat] = ()


def said_in(content: str | list[Any]) -> Content:
    """Return what the content of a message says in the chat-completions shape."""
    if isinstance(content, str):
        return Content(content)
    named = [_named(block) for block in content]
    names = [name for name, _ in named]
    parts = [part for _, part in named if part is not None]
    said: str | list[Any] = parts or ""
    match parts:
        case [{"type": "text", "text": str(text), **others}] if not others:
            said = text
    is_plain = said is parts and set(names) <= {_SAME, _TEXT}
    return Content(
        said,
        None if is_plain else _SEPARATOR.join(names),
        "\n".join(block[name] for name, block in zip(names, content, strict=True) if _tells_reasons(name, block)),
        [call for call in map(_call, names, content) if call is not None],
        [_answer(block) for name, block in zip(names, content, strict=True) if name == _ANSWER],
    )


def written_as(hint: str | None, said: Any, calls: Sequence[Mapping[str, Any]], reasoning: str) -> str | list[Any]:
    """Return the content of a message of what ``said_in`` returned of it.

    Args:
        hint: what ``said_in`` returned; ``None`` for a message that another program wrote.
        said: the content of the message now.
        calls: its calls, in LangChain's words.
        reasoning: the text of its reasoning.
    """
    if hint is None:
        return said if isinstance(said, str | list) else ""
    parts = deque([{"type": _TEXT, "text": said}] if isinstance(said, str) and said else said or ())
    of_calls, reasons = deque(calls), deque([reasoning])
    blocks = [block for name in hint.split(_SEPARATOR) for block in _block(name, parts, of_calls, reasons)]
    return [*blocks, *parts]  # and those that somebody has added since


def _named(block: Any) -> tuple[str, Any]:
    """Return the name of a block's kind, and the part that says the same; ``None`` if none does."""
    kind = block.get("type") if isinstance(block, Mapping) else None
    if isinstance(kind, str) and kind in _SILENT:
        return kind, None
    match block:
        case {"type": "text", "text": str(text)}:
            return _TEXT, {"type": "text", "text": text}
        case str(text):
            return _BARE, {"type": "text", "text": text}
    for name, shape in _SHAPES.items():
        if shape["type"] == kind and (found := _bound(shape, block)) is not None:
            return name, _part(name, found)
    return _SAME, block


def _block(name: str, parts: deque[Any], calls: deque[Any], reasons: deque[str]) -> Iterator[Any]:
    """Yield the block of a kind, and take what it says."""
    if name in _CALLS:
        if calls:
            call, (own_id, arguments) = calls.popleft(), _CALLS[name]
            yield {"type": name, own_id: call["id"], "name": call["name"], arguments: call["args"]}
    elif name in _REASONING:
        yield {"type": name, name: reasons.popleft() if reasons else ""}
    elif name in _SILENT:
        yield {"type": name}
    elif parts:
        part = parts.popleft()
        yield _text_in(part) if name == _BARE and _text_in(part) else _shaped(name, part)


def _tells_reasons(name: str, block: Any) -> bool:
    return name in _REASONING and isinstance(block.get(name), str)


def _call(name: str, block: Any) -> Mapping[str, Any] | None:
    if name not in _CALLS:
        return None
    own_id, arguments = _CALLS[name]
    return {"name": block.get("name"), "args": block.get(arguments), "id": block.get(own_id)}


def _answer(block: Mapping[str, Any]) -> Chat:
    content = block.get("content")
    said = said_in(content).said if isinstance(content, str | list) else text_of(content)
    return {"role": "tool", "tool_call_id": str(block.get("tool_use_id")), "content": said}


# --- Pictures and files ---


def _bound(shape: Any, value: Any) -> dict[str, str] | None:
    """Return the texts that a value has where its shape has names; ``None`` for a value of another shape."""
    if isinstance(shape, str):
        if not shape.startswith("$"):
            return {} if shape == value else None
        return {shape: value} if isinstance(value, str) else None
    found: dict[str, str] = {}
    for key, inner in shape.items():
        part = _bound(inner, value[key]) if isinstance(value, Mapping) and key in value else None
        if part is None:
            return None
        found |= part
    return found


def _filled(shape: Any, found: Mapping[str, str]) -> Any:
    if isinstance(shape, str):
        return found.get(shape, shape)
    return {key: _filled(inner, found) for key, inner in shape.items()}


def _part(name: str, found: Mapping[str, str]) -> Chat:
    url = found["$url"] if "$url" in found else base64_url(found["$mime"], found["$data"])
    if name.startswith("image"):
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "file", "file": {"file_data": url}}


def _shaped(name: str, part: Any) -> Any:
    """Return the block of a kind that says what a part says; the part if none of this kind does."""
    match part:
        case {"type": "image_url", "image_url": {"url": str(url)}} | {"type": "file", "file": {"file_data": str(url)}}:
            data = media_of(url)
            found = {"$url": url} | ({"$mime": data.mime_type, "$data": data.data} if data else {})
            shape = _SHAPES.get(name)
            if shape is not None and (data or not name.endswith(".data")):
                return _filled(shape, found)
    return part


def _text_in(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else ""
