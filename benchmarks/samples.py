"""States and messages as agents have them: nested, with text of several scripts, floats and tool calls."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator
from typing import Any

import orjson

from benchmarks.contender import Samples, Thread

KILOBYTE = 1024
SIZES = {"4 KB": 4 * KILOBYTE, "64 KB": 64 * KILOBYTE, "1 MB": 1000 * KILOBYTE}
USERS = 100
_VARIANTS = 17  # prime: the tasks take turns, and none must get the same one again and again
_ODD = 0.1  # of the words are of other scripts, numbers, code
_FEW = ["Zürich", "naïve", "東京", "Ελλάδα", "🙂", "2024-05-15", "credit_card_4421", "€12.50", "get_reservation({'id':"]
_ONSETS, _NUCLEI, _CODAS = (
    ["b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "w"],
    ["a", "e", "i", "o", "u", "ai", "ea", "io"],
    ["", "n", "r", "s", "t", "ck"],
)


def make_samples(seed: int, sizes: list[str]) -> Samples:
    """Make the same samples for the same seed."""
    rng = random.Random(seed)
    states = {size: _variants(rng, SIZES[size]) for size in sizes}
    return Samples(states, [make_message(rng, place) for place in range(1000)])


def make_threads(rng: random.Random, count: int) -> list[Thread]:
    """Make ids of threads and of their owners."""
    return [Thread(str(uuid.UUID(int=rng.getrandbits(128), version=4)), f"user-{n % USERS}") for n in range(count)]


def make_message(rng: random.Random, place: int, size: int = 400) -> dict[str, Any]:
    """Make a message of about so many bytes."""
    return {"role": ("user", "assistant")[place % 2], "content": make_text(rng, size)}


def growing_states(seed: int, steps: int) -> Iterator[dict[str, Any]]:
    """Make the states of a thread that gains a message of 1 KB at each step."""
    rng = random.Random(seed)
    messages: list[dict[str, Any]] = []
    for step in range(steps):
        messages = [*messages, make_message(rng, step, KILOBYTE)]
        yield {"step": step, "scores": [rng.random() for _ in range(8)], "next_node": "tools", "messages": messages}


def make_text(rng: random.Random, size: int) -> str:
    """Make a text of about so many bytes, which compresses about as well as what people write."""
    words: list[str] = []
    length = 0
    while length < size:
        words.append(_word(rng))
        length += len(words[-1].encode()) + 1
    return " ".join(words)


def _word(rng: random.Random) -> str:
    if rng.random() < _ODD:
        return rng.choice(_FEW)
    syllables = rng.choice((1, 1, 2, 2, 3))
    return "".join(rng.choice(part) for _ in range(syllables) for part in (_ONSETS, _NUCLEI, _CODAS))


def _variants(rng: random.Random, size: int) -> list[Any]:
    """States of consecutive steps: the last message, the step and the scores differ."""
    first = _state(rng, size)
    return [
        {
            **first,
            "step": step,
            "scores": [rng.random() for _ in range(8)],
            "messages": [*first["messages"][:-1], make_message(rng, step)],
        }
        for step in range(_VARIANTS)
    ]


def _state(rng: random.Random, size: int) -> dict[str, Any]:
    state: dict[str, Any] = {
        "step": 0,
        "next_node": "tools",
        "scores": [rng.random() for _ in range(8)],
        "execution": {"interrupted": False, "started": 1763712000.25, "usage": {"prompt": 1812, "completion": 77}},
        "tool_calls": [
            {"id": f"call_{n}", "name": "get_reservation", "arguments": {"id": f"R{n:05}", "limits": [0.5, n, None]}}
            for n in range(3)
        ],
        "messages": [],
    }
    missing = size - len(orjson.dumps(state))
    while missing > 0:
        message = make_message(rng, len(state["messages"]), min(missing, 600))
        state["messages"].append(message)
        missing -= len(orjson.dumps(message)) + 1
    return state
