"""Branches of a conversation, as mirrored messages tell them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Generic

from langchain_core.runnables import RunnableConfig

from agent_persistence.errors import InvalidInputError
from agent_persistence.frozen import frozen
from agent_persistence.ids import IdT
from agent_persistence.integrations.langgraph.mirror import CHECKPOINT, FOLLOWS
from agent_persistence.records import MessageRecord


@frozen
class BranchMessage(Generic[IdT]):
    """A message of one branch of a conversation.

    Attributes:
        record: the message.
        branches: the last message of each branch that begins here, oldest branch first; only one where the conversation
            has no fork. ``branch_of(messages, last=...)`` returns the branch of each.
        index: the index of this branch in ``branches``.
    """

    record: MessageRecord[IdT]
    branches: tuple[IdT, ...]
    index: int


def branch_of(messages: Iterable[MessageRecord[IdT]], *, last: IdT | None = None) -> list[BranchMessage[IdT]]:
    """Return one branch of a conversation that a graph forked, such as by answering a message again.

    Args:
        messages: messages that ``PersistenceSaver(..., mirror=...)`` wrote, in their order: all, or a page.
        last: the id of the message that the branch ends with; ``None`` for the newest one, which ends the newest
            branch.

    Returns:
        The messages of the branch, oldest first. A message without a predecessor in ``messages`` begins it.

    Raises:
        InvalidInputError: no message has the id ``last``.
    """
    rows = {str(row.message_id): row for row in messages}
    if not rows:
        return []
    if last is not None and str(last) not in rows:
        raise InvalidInputError("last", "must be the id of one of the messages")
    follows = _follows(rows)
    siblings: dict[str | None, list[str]] = defaultdict(list)
    for follower, before in follows.items():
        siblings[before].append(follower)
    ends = _newest_below(follows)
    tip = next(reversed(rows)) if last is None else str(last)
    branch: list[BranchMessage[IdT]] = []
    own_id: str | None = tip
    while own_id in rows:
        places = siblings[follows[own_id]]
        # This branch ends where the caller says, which need not be its newest message.
        others = tuple(rows[tip if place == own_id else ends[place]].message_id for place in places)
        branch.append(BranchMessage(rows[own_id], others, places.index(own_id)))
        own_id = follows[own_id]
    return branch[::-1]


def config_at(config: RunnableConfig, message: MessageRecord[Any]) -> RunnableConfig:
    """Return the config of the first checkpoint that has a mirrored message.

    To answer a user's message again, run the graph with ``None`` and this config. To continue a branch, run it with new
    input and the config of the branch's last message.

    Args:
        config: a config of the message's thread.
        message: a message that ``PersistenceSaver(..., mirror=...)`` wrote.

    Raises:
        InvalidInputError: the message was not written by a graph, or before messages named their checkpoints.
    """
    checkpoint_id = message.meta.get(CHECKPOINT)
    if not isinstance(checkpoint_id, str):
        raise InvalidInputError("message", f"has no {CHECKPOINT!r} in its meta: a mirroring PersistenceSaver writes it")
    configurable = {**(config.get("configurable") or {}), "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
    return {**config, "configurable": configurable}


def _follows(rows: Mapping[str, MessageRecord[Any]]) -> dict[str, str | None]:
    """Return the id of the message that each one follows; ``None`` for the first one of a conversation."""
    follows: dict[str, str | None] = {}
    previous: str | None = None
    for own_id, row in rows.items():
        # Without a name: not the graph's, or what it follows had no id. It was said after the one before it.
        named = row.meta.get(FOLLOWS, previous)
        # A later message cannot be meant: an application that changed the meta could lead in a circle.
        follows[own_id] = previous if named in rows and named not in follows else named
        previous = own_id
    return follows


def _newest_below(follows: Mapping[str, str | None]) -> dict[str, str]:
    """Return for each message the newest one of those that follow it, or itself."""
    newest: dict[str, str] = {}
    for own_id in reversed(list(follows)):
        end = newest.setdefault(own_id, own_id)
        before = follows[own_id]
        if before is not None:
            newest.setdefault(before, end)  # from the newest on: the first one to tell is the newest
    return newest
