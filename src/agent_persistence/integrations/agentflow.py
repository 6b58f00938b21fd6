"""A checkpointer for Agentflow over this package's threads, states and messages.

checkpointer = PersistenceCheckpointer(postgres_dsn="postgresql://...", redis_url="redis://...")
app = graph.compile(checkpointer=checkpointer)
await app.ainvoke({"messages": [Message.text_message("Hi")]}, config={"thread_id": "t-1", "user_id": "u-42"})
"""

# pyright: reportMissingImports=false
# The frameworks need Python 3.12; the checks run on older ones, too.

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


def _stale_state(error: StateConflictError) -> Exception:
    context = {"thread_id": error.thread_id, "expected_version": error.expected, "current_version": error.found}
    stale: Exception = StaleStateError(str(error), "STORAGE_CONFLICT_001", context)
    return stale


class PersistenceCheckpointer(CheckpointMethods, BaseCheckpointer[StateT]):  # type: ignore[misc,unused-ignore]  # Any without the package
    """A checkpointer for Agentflow that takes the arguments of its ``PgCheckpointer``; see ``__init__``."""

    _framework: ClassVar[Framework] = Framework(
        container=InjectQ,
        message=Message,
        thread_info=ThreadInfo,
        forbidden=lambda text: StorageError(text, "STORAGE_FORBIDDEN_001"),
        conflict=_stale_state,
        unavailable=lambda text: TransientStorageError(text, "STORAGE_TRANSIENT_001"),
    )

    def _dump_state(self, state: Any) -> dict[str, Any]:
        dump: dict[str, Any] = self._encode_state(state)
        return dump

    def _load_state(self, data: dict[str, Any], config: dict[str, Any]) -> Any:  # noqa: ARG002 - compile() binds the class
        return self._decode_state(data)

    def _isolates(self, config: dict[str, Any]) -> bool:
        return bool(self._isolation_enabled(config, config.get("user_id")))
