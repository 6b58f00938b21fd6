"""What users make themselves can be made with its types named."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from agent_persistence import INT, STRING, IdTypes, NewMessage, NewThread

HELLO = {"role": "user", "content": "hello"}


def test_the_types_of_ids_can_be_named_where_something_is_made() -> None:
    assert NewMessage[str](message=HELLO) == NewMessage(message=HELLO)
    assert NewThread[int](thread_id=7) == NewThread(thread_id=7)
    assert IdTypes[str, int](STRING, INT) == IdTypes(STRING, INT)


def test_what_was_made_cannot_be_changed() -> None:
    made = NewMessage[str](message=HELLO)

    with pytest.raises(FrozenInstanceError):
        made.total_tokens = 1  # type: ignore[misc]  # on purpose
