"""Two owners with one id of a conversation, in all frameworks: neither sees or changes anything of the other."""

from __future__ import annotations

import inspect
from typing import Any

from integrations.tenants import BEGINNINGS, CALLS, OF_NO_CONVERSATION, begin_all, rows_of, told

from agent_persistence.integrations.claude_agent import PersistenceSessionStore
from agent_persistence.integrations.google_adk import PersistenceSessionService
from agent_persistence.integrations.langgraph import PersistenceStore
from agent_persistence.integrations.openai_agents import PersistenceSession
from agent_persistence.persistence import Persistence

ADAPTERS = (PersistenceSession, PersistenceSessionStore, PersistenceSessionService, PersistenceStore)
REFUSED_AS_TAKEN = {name for name in BEGINNINGS if not name.startswith("PersistenceStore.")}


def test_every_method_of_every_adapter_is_called_below() -> None:
    methods = {
        f"{kind.__name__}.{name}"
        for kind in ADAPTERS
        for name, method in vars(kind).items()
        if inspect.isfunction(method) and not name.startswith("_")
    }

    assert methods <= CALLS.keys() | BEGINNINGS.keys() | OF_NO_CONVERSATION


async def test_a_conversation_of_another_answers_like_one_that_does_not_exist(
    persistence: Persistence, new_ids: Any
) -> None:
    ada, eve, at, nowhere = (new_ids.user() for _ in range(4))
    await begin_all(persistence, ada, at)
    before = await rows_of(persistence, [ada])
    assert sum(map(bool, before)) >= 4  # threads, messages, states and items

    for name, call in CALLS.items():
        answers = [await told(call(persistence, eve, one), one) for one in (at, nowhere)]
        assert answers[0] == answers[1], name
        assert ada not in answers[0], name

    assert await rows_of(persistence, [ada]) == before
    assert not any(await rows_of(persistence, [eve]))


async def test_what_is_begun_is_its_owner_s_alone(persistence: Persistence, new_ids: Any) -> None:
    ada, eve, at = (new_ids.user() for _ in range(3))
    await begin_all(persistence, ada, at)
    before, others = await rows_of(persistence, [ada]), await rows_of(persistence, [eve, "adk"], of_others=True)

    for name, call in BEGINNINGS.items():
        answer = await told(call(persistence, eve, at), at)
        assert (("is taken" in answer) or ("exists already" in answer)) == (name in REFUSED_AS_TAKEN), answer
    own = f"{at}-eve"
    await begin_all(persistence, eve, own)
    for name, call in CALLS.items():
        assert ada not in await told(call(persistence, eve, own), own), name

    assert await rows_of(persistence, [ada]) == before
    assert await rows_of(persistence, [eve, "adk"], of_others=True) == others
