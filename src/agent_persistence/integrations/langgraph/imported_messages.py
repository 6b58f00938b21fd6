"""The messages of imported threads, as the mirror would have written them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from agent_persistence.ids import IdType
from agent_persistence.integrations.langgraph.mirror import Mirror, warn_of
from agent_persistence.integrations.langgraph.values import load
from agent_persistence.operations.unit_of_work import UnitOfWork
from agent_persistence.repositories.checkpoints.records import ChannelValue


class ImportedMessages:
    """Writes the messages of one thread's checkpoints, which are given in their order.

    Only LangChain's and LangGraph's own classes are built of what is stored, whatever else the source names.

    Args:
        channel: the channel of messages.
        id_type: the id type of ``messages``.
    """

    def __init__(self, channel: str, id_type: IdType[Any]) -> None:
        self._mirror = Mirror(channel, id_type)
        self._serde = JsonPlusSerializer(allowed_msgpack_modules=None)  # none beside them
        self._written: dict[Any, Any] = {}

    async def write(
        self, uow: UnitOfWork[Any, Any], thread_id: Any, checkpoint_id: str, changed: Mapping[str, ChannelValue | None]
    ) -> None:
        """Write the messages that a checkpoint has and those before it have not, or not so.

        Args:
            uow: the transaction of the checkpoint.
            thread_id: the thread.
            checkpoint_id: the checkpoint.
            changed: the values of the channels that it changes.
        """
        rows = self._mirror.messages(
            checkpoint_id, self._loaded(checkpoint_id, changed.get(self._mirror.channel)), None
        )
        new = [row for row in rows if self._written.get(row.message_id) != row.message]
        self._written |= {row.message_id: row.message for row in new}
        if new:
            await self._mirror.write(uow, thread_id, new)

    def _loaded(self, checkpoint_id: str, value: ChannelValue | None) -> Any:
        try:
            return None if value is None else load(self._serde, value)
        except Exception as error:  # noqa: BLE001 - of whatever the source's serialiser wrote; checkpoints are imported
            warn_of(checkpoint_id, f"{type(error).__name__} was raised by its value")
            return None
