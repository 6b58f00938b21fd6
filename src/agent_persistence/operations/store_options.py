"""The options of a store, taken from the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from agent_persistence.ids import ID_TYPES
from agent_persistence.sessions.scope import StoreOptions
from agent_persistence.settings import PersistenceSettings
from agent_persistence.telemetry.telemetry import Telemetry

_DRAWN: Final = (None, "uuid7", "uuid4")


def store_options(settings: PersistenceSettings, telemetry: Telemetry, *, is_cached: bool) -> StoreOptions[Any]:
    """Return the options of a store with these settings.

    Args:
        settings: the settings.
        telemetry: what counts and measures the store's work.
        is_cached: whether the store has a cache of states.
    """
    new_id = _id_maker(settings)
    return StoreOptions(
        new_id=new_id,
        # No other message can have an id that is drawn here, so appends with such ids can be repeated safely.
        draws_ids=new_id is not None and settings.id_generator in _DRAWN,
        touch_interval=settings.thread_touch_interval,
        max_states=settings.max_checkpoint_history,
        max_json_bytes=settings.max_json_bytes,
        replace_unstorable=settings.sanitize == "replace",
        save_states=settings.enable_checkpointing,
        row_level_security=settings.row_level_security,
        # A limited history bounds the bytes already, and each prune would first have to make versions whole.
        patches_from=0 if settings.max_checkpoint_history else settings.patch_states_from,
        is_cached=is_cached,
        reply_seconds=settings.reply_seconds,
        wait_seconds=settings.pool_timeout,
        telemetry=telemetry,
    )


def _id_maker(settings: PersistenceSettings) -> Callable[[], Any] | None:
    make = settings.id_maker()
    if make is None or settings.id_generator in _DRAWN:
        return make
    # A host's function may return anything; ids that are made here need no check.
    kind = ID_TYPES[settings.id_type]
    return lambda: kind.validate(make(), "PERSISTENCE_ID_GENERATOR")
