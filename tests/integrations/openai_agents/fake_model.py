"""A model of the SDK that answers at once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from agents import Model, ModelResponse, Usage
from openai.types.responses import ResponseOutputMessage, ResponseOutputText


class FakeModel(Model):
    """Answers "Yes." and remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[list[Any]] = []

    async def get_response(self, *_: Any, **given: Any) -> ModelResponse:
        self.given.append(list(given["input"]))
        text = ResponseOutputText(type="output_text", text="Yes.", annotations=[])
        message = ResponseOutputMessage(
            id="__fake_id__", type="message", role="assistant", status="completed", content=[text]
        )
        return ModelResponse(output=[message], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        raise NotImplementedError
