"""Agentflow: a checkpointer over the same threads, states and messages that everything else here reads and writes.

checkpointer = PersistenceCheckpointer(postgres_dsn="postgresql://...", redis_url="redis://...")
app = graph.compile(checkpointer=checkpointer)
await app.ainvoke({"messages": [Message.text_message("Hi")]}, config={"thread_id": "t-1", "user_id": "u-42"})
"""

# pyright: reportMissingImports=false
# The package needs Python 3.12: the checks run on an older one, too.

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from agent_persistence.errors import MissingExtraError, StateConflictError
from agent_persistence.integrations.checkpointing import CheckpointMethods, Framework

try:
    from agentflow.core.exceptions.storage_exceptions import StaleStateError, StorageError, TransientStorageError
    from agentflow.core.state import AgentState, Message
    from agentflow.storage.checkpointer import BaseCheckpointer
    from agentflow.utils.thread_info import ThreadInfo
    from injectq import InjectQ
except ImportError as error:
    raise MissingExtraError("agentflow") from error

__all__ = ["PersistenceCheckpointer"]

StateT = TypeVar("StateT", bound=AgentState)


def _overtaken(error: StateConflictError) -> Exception:
    context = {"thread_id": error.thread_id, "expected_version": error.expected, "current_version": error.found}
    overtaken: Exception = StaleStateError(str(error), "STORAGE_CONFLICT_001", context)
    return overtaken


class PersistenceCheckpointer(CheckpointMethods, BaseCheckpointer[StateT]):  # type: ignore[misc,unused-ignore]  # Any without the package
    """A checkpointer for Agentflow, made with the arguments of its ``PgCheckpointer``; ``AsyncMethods`` lists them."""

    _framework: ClassVar[Framework] = Framework(
        message=Message,
        thread_info=ThreadInfo,
        refused=lambda text: StorageError(text, "STORAGE_FORBIDDEN_001"),
        overtaken=_overtaken,
        unavailable=lambda text: TransientStorageError(text, "STORAGE_TRANSIENT_001"),
    )

    def _default_id_type(self) -> str | None:
        found: str | None = InjectQ.get_instance().try_get("generated_id_type", None)
        return found

    def _dumped(self, state: Any) -> dict[str, Any]:
        dump: dict[str, Any] = self._encode_state(state)
        return dump

    def _revived(self, data: dict[str, Any], config: dict[str, Any]) -> Any:  # noqa: ARG002 - the class is bound
        return self._decode_state(data)

    def _isolates(self, config: dict[str, Any]) -> bool:
        return bool(self._isolation_enabled(config, config.get("user_id")))
