"""The conversations of the demo, with tool calls, written for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Message = dict[str, Any]

_WORKSHOP = "You answer for a bicycle workshop. Look things up before you promise anything."


def demo_lines() -> Iterator[bytes]:
    """Return the lines of a file for ``agent-persistence import``."""
    makers = (_repair, _opening_hours, _lost_lock, _photo, _many_languages, _unfinished)
    for make in makers:
        name = make.__name__.strip("_").replace("_", "-")
        conversation = {"id": f"demo-{name}", "source": "agent-persistence demo", "messages": make()}
        yield json.dumps(conversation, ensure_ascii=False).encode()


def _repair() -> list[Message]:
    return [
        {"role": "system", "content": _WORKSHOP},
        _user("My rear brake squeals. When could you look at it? 🚲"),
        _calls("find_slots", "call_1", work="brake service", days=3),
        _result("find_slots", "call_1", slots=["Tue 09:30", "Wed 16:00"], price=34.5),
        _assistant("Tuesday at 9:30 or Wednesday at 16:00; the service is 34.50 €."),
        _user("Tuesday, please. Ada Brandt."),
        _calls("book_slot", "call_2", slot="Tue 09:30", name="Ada Brandt"),
        _result("book_slot", "call_2", booking="B-1207", confirmed=True),
        _assistant("Booked: Tuesday 9:30, number B-1207. Bring the key of the lock along."),
    ]


def _opening_hours() -> list[Message]:
    return [
        {"role": "system", "content": _WORKSHOP},
        _user("Are you open on Saturday?"),
        _assistant("From ten to two. Collecting a finished bicycle works until six."),
        _user("Great, thanks!"),
        _assistant("See you on Saturday."),
    ]


def _lost_lock() -> list[Message]:
    return [
        {"role": "system", "content": _WORKSHOP},
        _user("I lost the key of my lock, and the bicycle stands in front of your door 😬"),
        _calls("find_bicycle", "call_1", frame_number="WX-5521"),
        _result("find_bicycle", "call_1", error="no bicycle of this frame number", retry=False),
        _assistant("That number is not in our books. Is it on the receipt, on the upper right?"),
        _user("Ah. WX-5527!"),
        _calls("find_bicycle", "call_2", frame_number="WX-5527"),
        _result("find_bicycle", "call_2", owner="J. Okafor", bought="2024-03-02"),
        _assistant("Found it. With your passport we open the lock at once."),
    ]


def _photo() -> list[Message]:
    picture = {"type": "image_url", "image_url": {"url": "https://example.org/chain.jpg", "detail": "low"}}
    return [
        {"role": "user", "content": [{"type": "text", "text": "Is this chain worn out?"}, picture]},
        _assistant("The links sit high on the teeth: yes, and the cassette should be looked at too."),
    ]


def _many_languages() -> list[Message]:
    return [
        _user("Sprechen Sie Deutsch? Und was kostet ein Schlauch?"),
        _assistant("Ja. Ein Schlauch kostet 8 €, mit Einbau 19 €."),
        _user("日本語でもいいですか"),
        _assistant("はい、どうぞ。チューブ交換は19ユーロです。"),
    ]


def _unfinished() -> list[Message]:
    return [
        {"role": "system", "content": _WORKSHOP},
        _user("How many gears has the Kestrel 8?"),
        _calls("find_model", "call_1", model="Kestrel 8"),
    ]


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _calls(name: str, call_id: str, /, **arguments: Any) -> Message:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": call_id, "type": "function", "function": function}],
    }


def _result(name: str, call_id: str, /, **result: Any) -> Message:
    return {"role": "tool", "name": name, "tool_call_id": call_id, "content": json.dumps(result)}
