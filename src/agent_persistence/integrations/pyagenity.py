"""PyAgenity: a checkpointer over the same threads, states and messages that everything else here reads and writes.

checkpointer = PersistenceCheckpointer(postgres_dsn="postgresql://...", redis_url="redis://...")
app = graph.compile(checkpointer=checkpointer)
await app.ainvoke({"messages": [Message.text_message("Hi")]}, config={"thread_id": "t-1", "user_id": "u-42"})
"""

# pyright: reportMissingImports=false
# The package needs Python 3.12: the checks run on an older one, too.

from __future__ import annotations

from typing import Any, ClassVar, Final, TypeVar, get_args

from agent_persistence.errors import InvalidInputError, MissingExtraError
from agent_persistence.integrations.checkpointing import CheckpointMethods, Framework

try:
    from injectq import InjectQ
    from pyagenity.checkpointer import BaseCheckpointer
    from pyagenity.exceptions.storage_exceptions import StorageError, TransientStorageError
    from pyagenity.state import AgentState, Message
    from pyagenity.utils.thread_info import ThreadInfo
except ImportError as error:
    raise MissingExtraError("agentflow") from error

__all__ = ["PersistenceCheckpointer"]

StateT = TypeVar("StateT", bound=AgentState)

_HEADER: Final = "__state_meta__"
_FORMAT: Final = 1


class PersistenceCheckpointer(CheckpointMethods, BaseCheckpointer[StateT]):  # type: ignore[misc,unused-ignore]  # Any without the package
    """A checkpointer for PyAgenity, made with the arguments of its ``PgCheckpointer``; ``AsyncMethods`` lists them."""

    _framework: ClassVar[Framework] = Framework(
        message=Message,
        thread_info=ThreadInfo,
        refused=StorageError,
        overtaken=lambda error: StorageError(str(error)),
        unavailable=TransientStorageError,
    )
    _state_type: type[AgentState] | None = None

    def bind_state_type(self, state_type: type[AgentState]) -> None:
        """Say which class the states of the graph are made of; PyAgenity's graphs do not say so themselves."""
        self._state_type = state_type

    def _default_id_type(self) -> str | None:
        found: str | None = InjectQ.get_instance().try_get("generated_id_type", None)
        return found

    def _dumped(self, state: Any) -> dict[str, Any]:
        return {**state.model_dump(mode="json"), _HEADER: {"format": _FORMAT, "class": type(state).__name__}}

    def _revived(self, data: dict[str, Any], config: dict[str, Any]) -> Any:
        """Make a state of its dump.

        Raises:
            InvalidInputError: it is of another class, whose fields would be lost.
        """
        fields = dict(data)
        written = fields.pop(_HEADER, {}).get("class")
        state_type = self._state_class(config)
        if written not in (None, state_type.__name__):
            raise InvalidInputError(
                "state_class",
                f"is {state_type.__name__}, but the state was saved as {written}: call bind_state_type({written})",
            )
        return state_type.model_validate(fields)

    def _state_class(self, config: dict[str, Any]) -> Any:
        declared = get_args(getattr(self, "__orig_class__", None))
        return config.get("state_class") or self._state_type or (declared[0] if declared else AgentState)

    def _expected(self, config: dict[str, Any]) -> int | None:  # noqa: ARG002 - the framework has no word for a conflict
        return None

    def _isolates(self, config: dict[str, Any]) -> bool:  # noqa: ARG002 - the framework has no policies
        return self.enforce_user_isolation
