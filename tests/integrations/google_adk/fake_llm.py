"""A model of ADK that answers at once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.genai.types import Content, Part
from pydantic import Field, PrivateAttr


class FakeLlm(BaseLlm):
    """Says "Yes.", after the parts that it was told to say first, and remembers what it was given."""

    model: str = "fake"
    first: list[Part] = Field(default_factory=list)
    _given: list[list[Content]] = PrivateAttr(default_factory=list)

    @property
    def given(self) -> list[list[Content]]:
        return self._given

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        self._given.append(list(llm_request.contents))
        is_first = len(self._given) <= len(self.first)
        part = self.first[len(self._given) - 1] if is_first else Part(text="Yes.")
        if stream and part.text:
            yield LlmResponse(content=_said(Part(text=part.text[:2])), partial=True)
        yield LlmResponse(content=_said(part))


def _said(part: Part) -> Content:
    return Content(role="model", parts=[part])


def texts(contents: list[Content]) -> list[Any]:
    """Return what contents say: texts, and the names of tools that are called or answer."""
    found = []
    for part in [part for content in contents for part in content.parts or ()]:
        call = part.function_call or part.function_response
        found.append(part.text if call is None else call.name)
    return found
