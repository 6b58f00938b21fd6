"""The conversation as Google ADK writes it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, ClassVar

from google.adk.events.event import Event
from google.genai.types import Content
from integrations.conversations import ASTRONAUT, CAT, PNG, Said, without_nul

from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.persistence import Persistence


def _model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"author": "helper", "invocation_id": "i1", "content": {"role": "model", "parts": list(parts)}}


def _user(*parts: dict[str, Any], author: str = "user") -> dict[str, Any]:
    return {"author": author, "invocation_id": "i1", "content": {"role": "user", "parts": list(parts)}}


def _function(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"function_call": {"id": call_id, "name": "weather", "args": arguments}}


def _function_response(call_id: str, response: Any, **more: Any) -> dict[str, Any]:
    return {"function_response": {"id": call_id, "name": "weather", "response": response, **more}}


def _inline_png() -> dict[str, Any]:
    return {"inline_data": {"mime_type": "image/png", "data": PNG}}


class ADK:
    """Google ADK: events of a session."""

    CONVERSATION: ClassVar = [
        _user({"text": "Snow in Oslo and Rome?"}),
        _model({"text": "Two cities.", "thought": True, "thought_signature": "c2ln"}),
        _model({"text": "I look."}, _function("call_1", city="Oslo"), _function("call_2", city="Rome")),
        _user(
            _function_response("call_1", {"result": "Snow"}),
            _function_response("call_2", {"result": "no such city"}),
            author="helper",
        ),
        _model({"text": "Only in Oslo."}),
        {"author": "helper", "actions": {"state_delta": {"city": "Oslo"}}},
        _user({"text": "What is this?"}, _inline_png()),
        _model({"text": CAT}),
        _user({"text": ASTRONAUT}),
        _model({"text": "And this: \ue000?"}),
        _user({"text": "half\0half"}),
        _model(_function("call_3")),
        _user(_function_response("call_3", {"result": "Map:"}, parts=[_inline_png()]), author="helper"),
        _model({"text": "Bye."}),
    ]
    MORE: ClassVar = [_user({"text": "More?"})]

    def __init__(self, persistence: Persistence, thread_id: str, user_id: str) -> None:
        self._service = PersistenceSessionService(persistence=persistence, scoped=False)
        self._key = {"app_name": "app", "user_id": user_id, "session_id": thread_id}

    async def write(self, items: list[Any]) -> None:
        session = await self._service.get_session(**self._key) or await self._service.create_session(**self._key)
        for item in items:
            await self._service.append_event(session, Event.model_validate(item))

    async def read(self) -> list[Said]:
        session = await self._service.get_session(**self._key)
        contents = [event.content for event in session.events] if session else []
        return [said for content in contents if content for said in _of_content(content)]


def _of_content(content: Content) -> Iterator[Said]:
    who = "assistant" if content.role == "model" else "user"
    for part in content.parts or ():
        if part.function_call:
            call = part.function_call
            yield "assistant", "call", call.id, call.name, call.args
        elif part.function_response:
            answer = part.function_response
            pictures = [("picture", _url(one.inline_data)) for one in answer.parts or ()]
            yield "tool", answer.id, ("text", (answer.response or {})["result"]), *pictures
        elif part.inline_data:
            yield who, "picture", _url(part.inline_data)
        elif not part.thought:
            yield who, "text", without_nul(part.text or "")


def _url(blob: Any) -> str:
    return f"data:{blob.mime_type};base64,{base64.b64encode(blob.data).decode()}"
