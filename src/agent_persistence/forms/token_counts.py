"""How many tokens a message took, in the words of whoever counted them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

# In the words of OpenAI, then of Anthropic and LangChain, then of Gemini.
_PROMPT: Final = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count")
_COMPLETION: Final = ("completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count")
_TOTAL: Final = ("total_tokens", "totalTokenCount", "total_token_count")


class TokenCounts(NamedTuple):
    """How many tokens a message took."""

    prompt: int
    completion: int
    total: int


def counts_in(usages: Mapping[str, Any]) -> TokenCounts | None:
    """Return the counts that usages name; ``None`` if they do not say how many tokens were used."""
    prompt, completion = _first_count(usages, _PROMPT), _first_count(usages, _COMPLETION)
    if prompt is None or completion is None:
        return None
    total = _first_count(usages, _TOTAL)
    return TokenCounts(prompt, completion, prompt + completion if total is None else total)


def _first_count(usages: Mapping[str, Any], names: Sequence[str]) -> int | None:
    return next((usages[name] for name in names if type(usages.get(name)) is int), None)
