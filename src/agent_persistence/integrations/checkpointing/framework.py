"""The classes and the errors of a framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent_persistence.errors import StateConflictError, ThreadExistsError, UnavailableError
from agent_persistence.integrations.checkpointing.conversion import (
    framework_id,
    from_thread_meta,
    to_fields,
    to_foreign_fields,
    with_original,
)
from agent_persistence.records import MessageRecord, ThreadRecord


@dataclass(frozen=True, kw_only=True)
class Framework:
    """The classes and the errors of a framework; it makes the framework's objects of records.

    Attributes:
        container: the class ``InjectQ``.
        message: the class ``Message``.
        thread_info: the class ``ThreadInfo``.
        forbidden: makes the error for a write to another user's thread, of its text.
        conflict: makes the error for a state that was saved over another version than the expected one.
        unavailable: makes the error for a server that cannot be reached, of its text.
    """

    container: Any
    message: Any
    thread_info: Any
    forbidden: Callable[[str], Exception]
    conflict: Callable[[StateConflictError], Exception]
    unavailable: Callable[[str], Exception]

    def default_id_type(self) -> str | None:
        """Return the type of the ids that the framework generates, if the application has chosen one."""
        found: str | None = self.container.get_instance().try_get("generated_id_type", None)
        return found

    @contextmanager
    def translated_errors(self) -> Iterator[None]:
        """Raise the framework's error where it has one, with this package's error as its cause."""
        try:
            yield
        except StateConflictError as error:
            raise self.conflict(error) from error
        except ThreadExistsError as error:
            # The user's own thread would have been updated, so the id is taken by a thread that the user cannot see.
            raise self.forbidden("the thread belongs to another user") from error
        except UnavailableError as error:
            raise self.unavailable(str(error)) from error

    def to_message(self, record: MessageRecord[Any]) -> Any:
        """Make a ``Message``, also of one that another program has written."""
        try:
            return self.message.model_validate(with_original(to_fields(record), record))
        except (ValueError, TypeError, AttributeError, KeyError):
            # What looks like our fields may be the application's own value in ``meta``.
            return self.message.model_validate(with_original(to_foreign_fields(record), record))

    def to_thread_info(self, record: ThreadRecord[Any, Any], thread_id: Any = None) -> Any:
        """Make a ``ThreadInfo``, with the thread's id as the caller spells it if ``thread_id`` is given."""
        metadata, run_id = from_thread_meta(record.meta)
        return self.thread_info(
            thread_id=framework_id(record.thread_id if thread_id is None else thread_id),
            thread_name=record.name,
            user_id=framework_id(record.user_id),
            metadata=metadata,
            updated_at=record.updated_at,
            run_id=run_id,
        )
