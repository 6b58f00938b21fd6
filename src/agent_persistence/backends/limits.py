"""The limits of a checkpointer: how many states it keeps, for how long, and how large they may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from agent_persistence.encoding.exact_json import MAX_JSON_BYTES, encode_json, sanitize
from agent_persistence.errors import CheckpointingDisabledError, InvalidInputError
from agent_persistence.settings import PersistenceSettings
from agent_persistence.validation import check_ttl


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLimits:
    """The options of the checkpointers without PostgreSQL, which has the same in its settings.

    Attributes:
        max_history: the number of versions kept of each thread, the newest ones; 0 keeps all.
        ttl_seconds: the time to live of states that are saved without ``ttl``; ``None`` if they do not expire.
        max_json_bytes: the largest state, as JSON in bytes.
        replace_unstorable: replace NUL characters, lone surrogates and NaN instead of refusing them.
        save_states: ``False`` makes every save raise ``CheckpointingDisabledError``.

    Raises:
        InvalidInputError: ``max_history`` is negative, or ``ttl_seconds`` is not a time to live.
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
        """Create limits from ``PERSISTENCE_*`` variables."""
        return cls(
            max_history=settings.max_checkpoint_history,
            ttl_seconds=settings.checkpoint_ttl_seconds or None,
            max_json_bytes=settings.max_json_bytes,
            replace_unstorable=settings.sanitize == "replace",
            save_states=settings.enable_checkpointing,
        )

    def clean(self, state: Any) -> Any:
        """Return a state as it is to be saved: with unstorable characters replaced, if that is wanted.

        Raises:
            CheckpointingDisabledError: ``save_states`` is off.
        """
        if not self.save_states:
            raise CheckpointingDisabledError
        return sanitize(state, "state") if self.replace_unstorable else state

    def encode(self, state: Any) -> bytes:
        """Encode a clean state as JSON from which an equal one is decoded; see ``encode_json``.

        Raises:
            InvalidInputError: the state is not exact JSON, or too large.
        """
        return encode_json(state, "state", max_bytes=self.max_json_bytes)

    def lifetime(self, ttl: object) -> float | None:
        """Return the seconds after which a state expires, or ``None`` if it does not.

        Args:
            ttl: the argument of ``save_state``; ``None`` for the default.

        Raises:
            InvalidInputError: ``ttl`` is not a number of seconds between a millisecond and a hundred years.
        """
        return self.ttl_seconds if ttl is None else check_ttl(ttl, "ttl")
