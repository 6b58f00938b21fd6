"""Every method of the two frameworks' checkpointers: each asynchronous one has a synchronous twin."""

from __future__ import annotations

from typing import Any

from agent_persistence.integrations.checkpointing.async_methods import AsyncMethods, Config


class CheckpointMethods(AsyncMethods):
    """The twins run in a thread of the checkpointer's own: a caller inside a running event loop blocks that loop only.

    Raises:
        MisuseError: by each of them, where only what belongs to the host's event loop was given.
    """

    def setup(self) -> bool:
        """Do as ``asetup``."""
        return self._stores.block(self.asetup)

    def release(self) -> bool:
        """Do as ``arelease``."""
        self._stores.release_blocking()
        return True

    def put_state(self, config: Config, state: Any) -> Any:
        """Do as ``aput_state``."""
        return self._stores.block(lambda: self.aput_state(config, state))

    def get_state(self, config: Config) -> Any:
        """Do as ``aget_state``."""
        return self._stores.block(lambda: self.aget_state(config))

    def clear_state(self, config: Config) -> bool:
        """Do as ``aclear_state``."""
        return self._stores.block(lambda: self.aclear_state(config))

    def put_state_cache(self, config: Config, state: Any) -> Any:
        """Do as ``aput_state_cache``."""
        return self._stores.block(lambda: self.aput_state_cache(config, state))

    def get_state_cache(self, config: Config) -> Any:
        """Do as ``aget_state_cache``."""
        return self._stores.block(lambda: self.aget_state_cache(config))

    def put_messages(self, config: Config, messages: list[Any], metadata: dict[str, Any] | None = None) -> bool:
        """Do as ``aput_messages``."""
        return self._stores.block(lambda: self.aput_messages(config, messages, metadata))

    def get_message(self, config: Config, message_id: str | int) -> Any:
        """Do as ``aget_message``."""
        return self._stores.block(lambda: self.aget_message(config, message_id))

    def list_messages(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """Do as ``alist_messages``."""
        return self._stores.block(lambda: self.alist_messages(config, search, offset, limit))

    def delete_message(self, config: Config, message_id: str | int) -> bool:
        """Do as ``adelete_message``."""
        return self._stores.block(lambda: self.adelete_message(config, message_id))

    def put_thread(self, config: Config, thread_info: Any) -> bool:
        """Do as ``aput_thread``."""
        return self._stores.block(lambda: self.aput_thread(config, thread_info))

    def get_thread(self, config: Config) -> Any:
        """Do as ``aget_thread``."""
        return self._stores.block(lambda: self.aget_thread(config))

    def list_threads(
        self, config: Config, search: str | None = None, offset: int | None = None, limit: int | None = None
    ) -> list[Any]:
        """Do as ``alist_threads``."""
        return self._stores.block(lambda: self.alist_threads(config, search, offset, limit))

    def clean_thread(self, config: Config) -> bool:
        """Do as ``aclean_thread``."""
        return self._stores.block(lambda: self.aclean_thread(config))

    def put_cache_value(self, namespace: str, key: str, value: Any, ttl_seconds: int | None = None) -> Any:
        """Do as ``aput_cache_value``."""
        return self._stores.block(lambda: self.aput_cache_value(namespace, key, value, ttl_seconds))

    def get_cache_value(self, namespace: str, key: str) -> Any:
        """Do as ``aget_cache_value``."""
        return self._stores.block(lambda: self.aget_cache_value(namespace, key))

    def clear_cache_value(self, namespace: str, key: str) -> bool:
        """Do as ``aclear_cache_value``."""
        return self._stores.block(lambda: self.aclear_cache_value(namespace, key))

    def request_stop(self, config: Config) -> bool:
        """Do as ``arequest_stop``."""
        return self._stores.block(lambda: self.arequest_stop(config))

    def is_stop_requested(self, config: Config) -> bool:
        """Do as ``ais_stop_requested``."""
        return self._stores.block(lambda: self.ais_stop_requested(config))

    def clear_stop_request(self, config: Config) -> bool:
        """Do as ``aclear_stop_request``."""
        return self._stores.block(lambda: self.aclear_stop_request(config))
