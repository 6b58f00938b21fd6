"""LangChain's messages, as graphs of LangGraph keep them: the fields of their classes as JSON, without defaults.

One message is one row, or several if it answers several tool calls. Summaries of earlier messages are asides, and so
are messages that say nothing, such as reasoning alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from agent_persistence.forms.chats import calls_of, function_of
from agent_persistence.forms.content_blocks import Content, said_in, written_as
from agent_persistence.forms.form import Chat, Form, Item, Said

_ROLES: Final = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "function"}
_TYPES: Final = {role: kind for kind, role in _ROLES.items()} | {"developer": "system"}
_SPEAKERS: Final = ("human", "ai", "system")
_USUAL: Final = 2  # fields of most messages: who speaks, and a text
_DEVELOPER: Final = {"__openai_role__": "developer"}
"""LangChain's own mark of instructions in OpenAI's newer words."""
SUMMARY: Final = "summarization"
"""LangChain's own mark of a message that stands for those that a program has removed."""
_IN_BLOCKS: Final = ("thinking", "reasoning")


class LangGraphForm(Form):
    """Messages of LangChain."""

    key: ClassVar[str] = "langgraph"

    def say(self, item: Item) -> Said:  # noqa: D102
        kind, content = item.get("type"), item.get("content")
        role = item.get("role", "") if kind == "chat" else _ROLES.get(kind) if isinstance(kind, str) else None
        if not isinstance(role, str) or not isinstance(content, str | list):
            return Said(())
        if len(item) == _USUAL and kind in _SPEAKERS and content and isinstance(content, str):
            return Said([{"role": role, "content": content}])
        found = said_in(content)
        chat = {**_address(item, role), "content": found.said, **_besides(item, found)}
        is_said = bool(found.said or chat.get("tool_calls") or chat.get("refusal") or kind in ("tool", "function"))
        if _kwargs(item).get("lc_source") == SUMMARY:
            return Said((), shown=chat)
        chats = [*found.answers, *([chat] if is_said else [])]
        return Said(chats, found.hint) if chats else Said((), shown=chat if len(chat) > _USUAL else None)

    def items(self, chat: Chat, hint: str | None = None) -> list[Item]:  # noqa: D102
        role = str(chat.get("role"))
        kind = _TYPES.get(role, "system")
        if len(chat) == _USUAL and kind in _SPEAKERS and role != "developer" and isinstance(chat.get("content"), str):
            return [{"type": kind, "content": written_as(hint, chat["content"], (), "")}]
        kwargs = _DEVELOPER if role == "developer" else {}
        calls, reasoning = [_tool_call(call) for call in calls_of(chat)], _reasoning(chat)
        item: Item = {"type": kind, "content": written_as(hint, chat.get("content"), calls, reasoning)}
        if kind == "ai":
            if reasoning and not any(name in (hint or "") for name in _IN_BLOCKS):
                kwargs = {**kwargs, "reasoning_content": reasoning}
            if isinstance(chat.get("refusal"), str):
                kwargs = {**kwargs, "refusal": chat["refusal"]}
            invalid = chat.get("invalid_tool_calls")
            item |= _given(tool_calls=calls, invalid_tool_calls=invalid if isinstance(invalid, list) else None)
        elif kind == "tool":
            is_error = chat.get("status") == "error"
            item |= {"tool_call_id": str(chat.get("tool_call_id")), **_given(status="error" if is_error else None)}
        name = chat.get("name")
        return [item | _given(additional_kwargs=kwargs, name=name if isinstance(name, str) else None)]


def _given(**fields: Any) -> Item:
    """Return the fields that have a value: LangChain's defaults are not written."""
    return {name: value for name, value in fields.items() if value}


def _address(item: Item, role: str) -> Chat:
    """Return who speaks, and to which call."""
    name = item.get("name")
    if item["type"] == "chat" and role not in _TYPES:
        role, name = "user", name or role  # a role that somebody made up is the name of a participant
    elif role == "system" and _kwargs(item).items() >= _DEVELOPER.items():
        role = "developer"
    chat: Chat = {"role": role, **_given(name=name if isinstance(name, str) else None)}
    return {**chat, "tool_call_id": item.get("tool_call_id")} if role == "tool" else chat


def _besides(item: Item, found: Content) -> Chat:
    """Return what a message says beside its content: calls, reasoning, a refusal, a tool's failure."""
    if item["type"] == "tool":
        return _given(status="error" if item.get("status") == "error" else None)
    kwargs, reasons = _kwargs(item), found.reasoning or _kwargs(item).get("reasoning_content")
    return _given(
        tool_calls=[_call(call) for call in _calls(item, found)],
        reasoning_content=reasons if isinstance(reasons, str) else None,
        refusal=kwargs["refusal"] if isinstance(kwargs.get("refusal"), str) else None,
        invalid_tool_calls=item.get("invalid_tool_calls"),
    )


def _calls(item: Item, found: Content) -> list[Mapping[str, Any]]:
    """Return the calls of a message, and those that only its content has."""
    given = item.get("tool_calls")
    calls = [call for call in given if isinstance(call, Mapping)] if isinstance(given, list) else []
    known = {str(call.get("id")) for call in calls}
    return [*calls, *(call for call in found.calls if str(call.get("id")) not in known)]


def _kwargs(item: Item) -> Mapping[str, Any]:
    kwargs = item.get("additional_kwargs")
    return kwargs if isinstance(kwargs, Mapping) else {}


def _call(call: Mapping[str, Any]) -> Chat:
    arguments = json.dumps(call.get("args"), ensure_ascii=False)
    return {"type": "function", "id": call.get("id"), "function": {"name": call.get("name"), "arguments": arguments}}


def _tool_call(call: Mapping[str, Any]) -> Item:
    function = function_of(call)
    arguments = function.get("arguments")
    try:
        args = json.loads(arguments) if isinstance(arguments, str) and arguments else arguments or {}
    except (ValueError, RecursionError):
        args = None
    if not isinstance(args, dict):
        args = {"arguments": arguments}  # LangChain's class takes nothing but an object
    return {"name": str(function.get("name")), "args": args, "id": call.get("id"), "type": "tool_call"}


def _reasoning(chat: Chat) -> str:
    found = chat.get("reasoning_content") or chat.get("reasoning")
    return found if isinstance(found, str) else ""
