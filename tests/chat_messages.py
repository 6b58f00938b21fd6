"""Chat-completions messages of every shape that providers and hosts have come up with."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

ROLES = ["user", "assistant", "system", "tool", "developer", "function"]
_KNOWN_KEYS = ["tool_calls", "tool_call_id", "reasoning", "reasoning_content", "name", "extra", "set", "unset"]
# Line ends, escapes, what LIKE and JSON give a meaning to, 4-byte characters, and what JSONB must not read as a number.
_AWKWARD = [
    "",
    "\r\n",
    "\x1b[31mred\x1b[0m",
    "100%_\\/'\"",
    "\u2028",
    "😀",
    "-0.0",
    "0.00",
    "null",
    "x" * 255,
    "x" * 256,
]


def chat_messages(texts: SearchStrategy[str], numbers: SearchStrategy[float]) -> SearchStrategy[dict[str, Any]]:
    """Any message whose texts and numbers are these."""
    text = texts | st.sampled_from(_AWKWARD)
    anything = st.recursive(
        st.none() | st.booleans() | numbers | text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
        max_leaves=6,
    )
    calls = st.lists(
        st.fixed_dictionaries({"id": st.sampled_from(["same", "x" * 300]) | text, "type": st.just("function")})
        | st.dictionaries(text, anything, max_size=2),
        max_size=3,
    )
    parts = st.lists(st.fixed_dictionaries({"type": text, "text": text}) | anything, max_size=3)
    return st.builds(
        lambda role, content, known, others: others | known | content | {"role": role},
        role=st.sampled_from(ROLES),
        content=st.just({}) | st.fixed_dictionaries({"content": st.none() | text | parts}),
        known=st.dictionaries(st.sampled_from(_KNOWN_KEYS), calls | text | anything, max_size=4),
        others=st.dictionaries(text, anything, max_size=2),
    )


def written(value: Any) -> str:
    """Tells 1 from 1.0 and from True, and -0.0 from 0.0, which == does not."""
    return json.dumps(value, sort_keys=True)
