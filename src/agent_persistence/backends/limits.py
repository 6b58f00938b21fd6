"""What the backends keep of a state, and for how long: the same rules for all that have no PostgreSQL to ask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from agent_persistence.encoding.exact_json import MAX_JSON_BYTES, encode_json, sanitize
from agent_persistence.errors import CheckpointingDisabledError, InvalidInputError
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_ttl


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLimits:
    """What a checkpointer keeps.

    Attributes:
        max_history: versions kept of each thread, the newest; 0 keeps all.
        ttl_seconds: how long a state lives that is saved without ``ttl``; ``None`` for ever.
        max_json_bytes: the size from which on a state is refused.
        replace_unstorable: replace NUL characters, lone surrogates and NaN instead of refusing them.
        save_states: ``False`` refuses to save.
    """

    max_history: int = 0
    ttl_seconds: float | None = None
    max_json_bytes: int = MAX_JSON_BYTES
    replace_unstorable: bool = False
    save_states: bool = True

    def __post_init__(self) -> None:
        if self.max_history < 0:
            raise InvalidInputError("max_history", "must not be negative; 0 keeps all")
        if self.ttl_seconds is not None:
            check_ttl(self.ttl_seconds, "ttl_seconds")

    @classmethod
    def from_settings(cls, settings: PersistenceSettings) -> Self:
        """Take them from ``PERSISTENCE_*``."""
        return cls(
            max_history=settings.max_checkpoint_history,
            ttl_seconds=settings.checkpoint_ttl_seconds or None,
            max_json_bytes=settings.max_json_bytes,
            replace_unstorable=settings.sanitize == "replace",
            save_states=settings.enable_checkpointing,
        )

    def clean(self, state: Any) -> Any:
        """Return the state as it is to be saved.

        Raises:
            CheckpointingDisabledError: the settings turned states off.
        """
        if not self.save_states:
            raise CheckpointingDisabledError
        return sanitize(state, "state") if self.replace_unstorable else state

    def encode(self, state: Any) -> bytes:
        """Write a clean state as JSON that comes back equal; see ``encode_json``.

        Raises:
            InvalidInputError: it would not come back, or is too large.
        """
        return encode_json(state, "state", max_bytes=self.max_json_bytes)

    def lifetime(self, ttl: object) -> float | None:
        """Return for how many seconds a state lives, ``None`` for ever.

        Raises:
            InvalidInputError: not a number of seconds between a millisecond and a hundred years.
        """
        return self.ttl_seconds if ttl is None else check_ttl(ttl, "ttl")
