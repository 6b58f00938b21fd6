"""Branches of a conversation that a graph forked."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from typing_extensions import TypedDict

from agent_persistence import InvalidInputError, Persistence
from agent_persistence.integrations.langgraph import PersistenceSaver, branch_of, config_at


class State(TypedDict):
    messages: Annotated[list[Any], add_messages]


class Changes(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=5)]


class Conversation:
    """A conversation with a graph that numbers its answers."""

    def __init__(self, persistence: Persistence[Any, Any], config: Any, user_id: Any, schema: type[Any]) -> None:
        self._persistence, self._config, self._user_id, self._answers = persistence, config, user_id, 0
        builder = StateGraph(schema)
        builder.add_node("answer", self._answer)
        builder.add_edge(START, "answer")
        self._graph = builder.compile(checkpointer=PersistenceSaver(persistence, user_id=user_id, mirror="messages"))

    def _answer(self, _: Any) -> dict[str, Any]:
        self._answers += 1
        return {"messages": [AIMessage(f"answer {self._answers}", id=f"a-{self._answers}")]}

    async def say(self, text: str, *, at: str | None = None) -> None:
        config = self._config if at is None else config_at(self._config, await self.message(at))
        await self._graph.ainvoke({"messages": [HumanMessage(text, id=text)]}, config)

    async def answer_again(self, message_id: str) -> None:
        await self._graph.ainvoke(None, config_at(self._config, await self.message(message_id)))

    async def message(self, message_id: str) -> Any:
        return await self._persistence.messages.require(self._thread_id, message_id, user_id=self._user_id)

    async def branch(self, last: str | None = None, limit: int = 50) -> list[Any]:
        page = await self._persistence.messages.page(self._thread_id, user_id=self._user_id, limit=limit)
        return [(one.record.message_id, one.branches, one.index) for one in branch_of(page, last=last)]

    async def in_the_graph(self) -> list[str]:
        return [one.id for one in (await self._graph.aget_state(self._config)).values["messages"]]

    @property
    def _thread_id(self) -> str:
        return str(self._config["configurable"]["thread_id"])


@pytest.fixture
def conversation(persistence: Persistence[str, str], config: Any, user_id: str) -> Conversation:
    return Conversation(persistence, config, user_id, State)


@pytest.mark.parametrize("schema", [State, Changes])
async def test_a_conversation_without_a_fork_is_one_branch(
    persistence: Persistence[str, str], config: Any, user_id: str, schema: type[Any]
) -> None:
    conversation = Conversation(persistence, config, user_id, schema)
    await conversation.say("q-1")
    await conversation.say("q-2")

    assert await conversation.branch() == [(one, ("a-2",), 0) for one in ("q-1", "a-1", "q-2", "a-2")]


async def test_an_answer_again_is_told_from_the_first_one(conversation: Conversation) -> None:
    await conversation.say("q-1")
    await conversation.answer_again("q-1")

    assert await conversation.branch() == [("q-1", ("a-2",), 0), ("a-2", ("a-1", "a-2"), 1)]
    assert await conversation.branch("a-1") == [("q-1", ("a-1",), 0), ("a-1", ("a-1", "a-2"), 0)]
    assert await conversation.in_the_graph() == ["q-1", "a-2"]


async def test_an_older_branch_goes_on_and_is_the_newest_then(conversation: Conversation) -> None:
    await conversation.say("q-1")
    await conversation.answer_again("q-1")
    await conversation.say("q-2", at="a-1")

    branch = await conversation.branch()
    assert branch == [
        ("q-1", ("a-3",), 0),
        ("a-1", ("a-3", "a-2"), 0),
        ("q-2", ("a-3",), 0),
        ("a-3", ("a-3",), 0),
    ]
    assert await conversation.in_the_graph() == [message_id for message_id, *_ in branch]


async def test_a_page_that_begins_within_a_branch_begins_there(conversation: Conversation) -> None:
    await conversation.say("q-1")
    await conversation.say("q-2")
    await conversation.answer_again("q-2")

    assert await conversation.branch(limit=2) == [("a-3", ("a-2", "a-3"), 1)]


async def test_a_first_message_that_was_edited_is_a_branch(conversation: Conversation, config: Any) -> None:
    await conversation.say("q-1")
    first = [one async for one in conversation._graph.aget_state_history(config)][-1]  # noqa: SLF001  # ours

    await conversation._graph.ainvoke({"messages": [HumanMessage("edited", id="q-2")]}, first.config)  # noqa: SLF001

    assert await conversation.branch() == [("q-2", ("a-1", "a-2"), 1), ("a-2", ("a-2",), 0)]


async def test_messages_that_no_graph_wrote_follow_one_another(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    for number in range(3):
        await persistence.messages.append(
            thread_id, {"role": "user", "content": "hi"}, message_id=f"m-{number}", user_id=user_id
        )

    page = await persistence.messages.page(thread_id, user_id=user_id)

    assert [one.record.message_id for one in branch_of(page)] == ["m-0", "m-1", "m-2"]
    with pytest.raises(InvalidInputError, match="checkpoint_id"):
        config_at({}, page.items[0])


async def test_a_meta_that_the_application_changed_leads_in_no_circle(
    persistence: Persistence[str, str], user_id: str
) -> None:
    thread_id = (await persistence.threads.create(user_id=user_id)).thread_id
    for number in range(2):
        await persistence.messages.append(
            thread_id, {"role": "user", "content": "hi"}, message_id=f"m-{number}", user_id=user_id
        )
        other = {"follows": f"m-{1 - number}"}
        await persistence.messages.update(thread_id, f"m-{number}", meta=other, user_id=user_id)

    page = await persistence.messages.page(thread_id, user_id=user_id)

    assert [one.record.message_id for one in branch_of(page)] == ["m-0", "m-1"]


def test_no_messages_have_no_branch() -> None:
    assert branch_of([]) == []


async def test_a_branch_ends_with_a_message_that_is_there(conversation: Conversation) -> None:
    await conversation.say("q-1")

    with pytest.raises(InvalidInputError, match="last"):
        await conversation.branch("absent")
