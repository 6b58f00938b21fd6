"""A chat model that costs nothing; replace it with yours, such as ``init_chat_model("openai:gpt-5")``."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult


class FakeModel(BaseChatModel):
    """Repeats the last message, word by word, and numbers its answers.

    Attributes:
        seconds_a_word: the pause before each word.
        numbers: the numbers of the answers.
    """

    seconds_a_word: float = 0.05
    numbers: Iterator[int] = itertools.count(1)

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self._answer(messages)))])

    async def _astream(self, messages: list[BaseMessage], *_: Any, **__: Any) -> AsyncIterator[ChatGenerationChunk]:
        for word in re.findall(r"\S+\s*", self._answer(messages)):
            await asyncio.sleep(self.seconds_a_word)
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    def _answer(self, messages: list[BaseMessage]) -> str:
        return f"Answer {next(self.numbers)}: you said {messages[-1].text!r}."

    @property
    def _llm_type(self) -> str:
        return "fake"
