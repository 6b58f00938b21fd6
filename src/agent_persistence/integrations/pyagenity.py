"""A checkpointer for PyAgenity, Agentflow's predecessor; used like the one of ``integrations.agentflow``."""

# pyright: reportMissingImports=false
# The frameworks need Python 3.12; the checks run on older ones, too.

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

# The header that Agentflow writes into its states, too.
_HEADER: Final = "__state_meta__"
_FORMAT: Final = 1


class PersistenceCheckpointer(CheckpointMethods, BaseCheckpointer[StateT]):  # type: ignore[misc,unused-ignore]  # Any without the package
    """A checkpointer for PyAgenity that takes the arguments of its ``PgCheckpointer``; see ``__init__``.

    The class of its states is ``state_class`` of the config, or the one of ``bind_state_type``, or the parameter of
    ``PersistenceCheckpointer[MyState](...)``, or ``AgentState``.
    """

    _framework: ClassVar[Framework] = Framework(
        container=InjectQ,
        message=Message,
        thread_info=ThreadInfo,
        forbidden=StorageError,
        conflict=lambda error: StorageError(str(error)),
        unavailable=TransientStorageError,
    )
    _state_type: type[AgentState] | None = None

    def bind_state_type(self, state_type: type[AgentState]) -> None:
        """Set the class of the graph's states, which PyAgenity's graphs do not tell their checkpointer."""
        self._state_type = state_type

    def _dump_state(self, state: Any) -> dict[str, Any]:
        return {**state.model_dump(mode="json"), _HEADER: {"format": _FORMAT, "class": type(state).__name__}}

    def _load_state(self, data: dict[str, Any], config: dict[str, Any]) -> Any:
        fields = dict(data)
        written = fields.pop(_HEADER, {}).get("class")
        state_type = self._state_class(config)
        # Another class would ignore the fields that it lacks, and the next save would lose them.
        if written not in (None, state_type.__name__):
            raise InvalidInputError(
                "state_class",
                f"is {state_type.__name__}, but the state was saved as {written}: call bind_state_type({written})",
            )
        return state_type.model_validate(fields)

    def _state_class(self, config: dict[str, Any]) -> Any:
        declared = get_args(getattr(self, "__orig_class__", None))
        return config.get("state_class") or self._state_type or (declared[0] if declared else AgentState)

    def _expected_version(self, config: dict[str, Any]) -> int | None:  # noqa: ARG002 - PyAgenity has no error for a conflict
        return None

    def _isolates(self, config: dict[str, Any]) -> bool:  # noqa: ARG002 - PyAgenity has no policies
        return self.enforce_user_isolation
