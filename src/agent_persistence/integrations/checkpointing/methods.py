"""The checkpointer that both frameworks share: ``AsyncMethods``, and a synchronous twin of each method."""

from __future__ import annotations

from typing import Any

from agent_persistence.integrations.checkpointing.async_methods import AsyncMethods, Config


class CheckpointMethods(AsyncMethods):
    """The methods of both frameworks' checkpointers, asynchronous and synchronous.

    A synchronous method runs its asynchronous twin in the checkpointer's thread and waits for it. It may be called in
    any thread; if an event loop runs there, that loop is blocked until the call is done.

    Each synchronous method raises the errors of its twin, and:

    Raises:
        MisuseError: the checkpointer was made with resources of the host's event loop only, and has no addresses.
        ClosedError: another thread called ``release`` during the call.
    """

    def setup(self) -> bool:
        """Connect and check the schema; see ``asetup``."""
        return self._stores.block(self.asetup)

    def release(self) -> bool:
        """Close the connections that the checkpointer opened; see ``arelease``.

        Raises:
            MisuseError: resources of the host's event loop are to be closed: await ``arelease`` there.
        """
        self._stores.release_blocking()
        return True

    def put_state(self, config: Config, state: Any) -> Any:
        """Save a state and return it; see ``aput_state``."""
        return self._stores.block(self.aput_state, config, state)

    def get_state(self, config: Config) -> Any:
        """Return the latest saved state, or ``None``; see ``aget_state``."""
        return self._stores.block(self.aget_state, config)

    def clear_state(self, config: Config) -> bool:
        """Delete all states of a thread; see ``aclear_state``."""
        return self._stores.block(self.aclear_state, config)

    def put_state_cache(self, config: Config, state: Any) -> Any:
        """Keep a draft between two checkpoints; see ``aput_state_cache``."""
        return self._stores.block(self.aput_state_cache, config, state)

    def get_state_cache(self, config: Config) -> Any:
        """Return the draft or the latest saved state; see ``aget_state_cache``."""
        return self._stores.block(self.aget_state_cache, config)

    def put_messages(self, config: Config, messages: list[Any], metadata: dict[str, Any] | None = None) -> bool:
        """Append messages, or replace those with the same id; see ``aput_messages``."""
        return self._stores.block(self.aput_messages, config, messages, metadata)

    def get_message(self, config: Config, message_id: str | int) -> Any:
        """Return a message, or raise ``IndexError``; see ``aget_message``."""
        return self._stores.block(self.aget_message, config, message_id)

    def list_messages(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """List messages in the order of the thread; see ``alist_messages``."""
        return self._stores.block(self.alist_messages, config, search, offset, limit)

    def delete_message(self, config: Config, message_id: str | int) -> bool:
        """Delete a message, or raise ``IndexError``; see ``adelete_message``."""
        return self._stores.block(self.adelete_message, config, message_id)

    def put_thread(self, config: Config, thread_info: Any) -> bool:
        """Create a thread or update its name and metadata; see ``aput_thread``."""
        return self._stores.block(self.aput_thread, config, thread_info)

    def get_thread(self, config: Config) -> Any:
        """Return a thread, or ``None``; see ``aget_thread``."""
        return self._stores.block(self.aget_thread, config)

    def list_threads(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """List threads, the most recently active first; see ``alist_threads``."""
        return self._stores.block(self.alist_threads, config, search, offset, limit)

    def clean_thread(self, config: Config) -> bool:
        """Delete a thread with its contents; see ``aclean_thread``."""
        return self._stores.block(self.aclean_thread, config)

    def put_cache_value(self, namespace: str, key: str, value: Any, ttl_seconds: int | None = None) -> Any:
        """Cache a JSON value for all users; see ``aput_cache_value``."""
        return self._stores.block(self.aput_cache_value, namespace, key, value, ttl_seconds)

    def get_cache_value(self, namespace: str, key: str) -> Any:
        """Return a cached value, or ``None``; see ``aget_cache_value``."""
        return self._stores.block(self.aget_cache_value, namespace, key)

    def clear_cache_value(self, namespace: str, key: str) -> bool:
        """Delete a cached value; see ``aclear_cache_value``."""
        return self._stores.block(self.aclear_cache_value, namespace, key)

    def request_stop(self, config: Config) -> bool:
        """Ask the run of a thread to stop; see ``arequest_stop``."""
        return self._stores.block(self.arequest_stop, config)

    def is_stop_requested(self, config: Config) -> bool:
        """Whether the run of a thread was asked to stop; see ``ais_stop_requested``."""
        return self._stores.block(self.ais_stop_requested, config)

    def clear_stop_request(self, config: Config) -> bool:
        """Delete the request to stop; see ``aclear_stop_request``."""
        return self._stores.block(self.aclear_stop_request, config)
